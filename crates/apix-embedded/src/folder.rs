//! Making the data folder, so that it is still there after a power cut.

use std::fs::File;
use std::path::Path;

use apix::{Error, Result};

/// Makes `folder` and those above it where there are none, and flushes the names of what was made.
pub(crate) fn make(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let made: Vec<&Path> = folder.ancestors().take_while(|above| !above.is_dir()).collect();
    std::fs::create_dir_all(folder)
        .and_then(|()| made.iter().try_for_each(|made| flush_name(made)))
        .map_err(|fault| {
            Error::unavailable(format!(
                "the data folder {} cannot be made: {fault}",
                folder.display()
            ))
            .with_source(fault)
        })
}

fn flush_name(made: &Path) -> std::io::Result<()> {
    let above = made.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}
