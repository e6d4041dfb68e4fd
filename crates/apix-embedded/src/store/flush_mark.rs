//! What an index row begins with: up to which position events were flushed when it was written,
//! in a form that nobody else can write.
//!
//! The log is searched for these marks when it cannot be trusted to be read (`log_check.rs`), and
//! its pages hold users' text too, and remains of what stood there before. So a mark carries a
//! seal made with a secret of the folder: text that looks like a mark is none without it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// The file of the secret. Without it, marks of earlier commits say nothing.
const SECRET_FILE: &str = "apix.seal";
const SECRET_BYTES: usize = 16;

const WORD: &[u8; 8] = b"APIXidx1";

/// How long a mark is.
pub(crate) const MARK_BYTES: usize = 24;

/// Makes and reads marks.
#[derive(Clone, Debug)]
pub(crate) struct FlushMarks {
    secret: [u8; SECRET_BYTES],
}

impl FlushMarks {
    /// The secret of `folder`, made where there is none.
    pub(super) fn open(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(SECRET_FILE);
        let mut secret = [0; SECRET_BYTES];
        match File::open(&path).and_then(|mut file| file.read_exact(&mut secret)) {
            Ok(()) => return Ok(Self { secret }),
            // A kill in between has left less than a secret; no mark was written with it.
            Err(fault)
                if matches!(fault.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {}
            Err(fault) => return Err(fault),
        }
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        Ok(Self { secret })
    }

    /// The mark that says `flushed`.
    pub(crate) fn make(&self, flushed: u64) -> [u8; MARK_BYTES] {
        let mut mark = [0; MARK_BYTES];
        mark[..8].copy_from_slice(WORD);
        mark[8..16].copy_from_slice(&flushed.to_le_bytes());
        mark[16..].copy_from_slice(&self.seal(flushed));
        mark
    }

    fn seal(&self, flushed: u64) -> [u8; 8] {
        let digest = Sha256::new().chain_update(self.secret).chain_update(flushed.to_le_bytes());
        let mut seal = [0; 8];
        seal.copy_from_slice(&digest.finalize()[..8]);
        seal
    }

    /// The highest position that a mark in `bytes` names.
    pub(super) fn highest_in(&self, bytes: &[u8]) -> Option<u64> {
        let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == WORD[0]);
        let said = starts.filter_map(|(at, _)| {
            let mark = bytes[at..].get(..MARK_BYTES)?;
            if mark[..8] != WORD[..] {
                return None;
            }
            let flushed = u64::from_le_bytes(mark[8..16].try_into().ok()?);
            (mark[16..] == self.seal(flushed)).then_some(flushed)
        });
        said.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_marks_of_this_folder_count() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let marks = FlushMarks::open(ours.path()).unwrap();
        let mut page = vec![b'A'; 4_096];
        page[100..124].copy_from_slice(&marks.make(7));
        page[200..224].copy_from_slice(&marks.make(9));
        let again = FlushMarks::open(ours.path()).unwrap();
        assert_eq!(again.highest_in(&page), Some(9));
        // Overwritten in part, as the remains on a page that was laid out anew are.
        page[216..].fill(b'~');
        assert_eq!(again.highest_in(&page), Some(7));
        // What a user writes.
        page[300..324].copy_from_slice(b"APIXidx1~~~~~~~~~~~~~~~~");
        let stranger = FlushMarks::open(theirs.path()).unwrap();
        page[400..424].copy_from_slice(&stranger.make(u64::MAX));
        assert_eq!(again.highest_in(&page), Some(7));
    }
}
