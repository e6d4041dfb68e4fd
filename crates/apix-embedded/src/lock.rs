//! One process at a time holds a data folder. The operating system lets the lock go when the
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use apix::{Error, ErrorKind, Result};

/// How often a taken lock is tried again,
const TRIES: u32 = 20;
/// and after what pause.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

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
        // A process that is just ending may have it for a moment, and so may a program that the
        // last holder was about to start.
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
                Err(TryLockError::Error(fault)) => return Err(cannot(folder, fault)),
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the data folder {} is held by another process; stop that one, or give this one a \
                 folder of its own",
                folder.display()
            ),
        ))
    }
}

fn cannot(folder: &Path, fault: std::io::Error) -> Error {
    Error::unavailable(format!(
        "the data folder {} cannot be locked: {fault}; it must exist and be writable",
        folder.display()
    ))
    .with_source(fault)
}
