//! One process at a time holds a data folder. The operating system lets the lock go when the
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use apix::{Error, ErrorKind, Result};

/// The lock of a data folder, held until it is dropped.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of `folder`, or says that somebody else has it.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|fault| cannot(folder, fault))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the data folder {} is held by another process; stop that one, or give this \
                     one a folder of its own",
                    folder.display()
                ),
            )),
            Err(TryLockError::Error(fault)) => Err(cannot(folder, fault)),
        }
    }
}

fn cannot(folder: &Path, fault: std::io::Error) -> Error {
    Error::unavailable(format!(
        "the data folder {} cannot be locked: {fault}; it must exist and be writable",
        folder.display()
    ))
    .with_source(fault)
}
