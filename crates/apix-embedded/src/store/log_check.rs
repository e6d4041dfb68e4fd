//! Whether the log was damaged where it was flushed.
//!
//! SQLite reads its log up to the first frame that does not fit and takes what follows for a write
//! that a power cut interrupted. After a power cut that is right; after damage to the medium it
//! would silently cut off what was answered. So each index row says up to which position events
//! were flushed when it was written: a row that says more than was read back proves damage.

use std::io::ErrorKind::NotFound;
use std::path::Path;

use crate::codec::rows::INDEX_MARK;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// The highest position up to which the log says that events were flushed; 0 if it says nothing.
pub(super) fn claimed(log: &Path) -> std::io::Result<u64> {
    let log = match std::fs::read(log) {
        Ok(log) => log,
        Err(fault) if fault.kind() == NotFound => return Ok(0),
        Err(fault) => return Err(fault),
    };
    Ok(claimed_in(&log).unwrap_or(0))
}

fn claimed_in(log: &[u8]) -> Option<u64> {
    let header = log.get(..HEADER_BYTES)?;
    let page_bytes = u32::from_be_bytes(header[8..12].try_into().ok()?);
    // Frames of an earlier round of the same file have other salts.
    let salts = &header[16..24];
    let frames = log[HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page_bytes as usize);
    frames.filter(|frame| &frame[8..16] == salts).filter_map(|frame| mark_in(&frame[24..])).max()
}

/// The highest position that a page of the log names.
fn mark_in(page: &[u8]) -> Option<u64> {
    let starts = page.iter().enumerate().filter(|(_, byte)| **byte == INDEX_MARK[0]);
    let marks = starts.filter_map(|(at, _)| {
        let flushed = page[at..].strip_prefix(INDEX_MARK)?.get(..8)?;
        Some(u64::from_le_bytes(flushed.try_into().ok()?))
    });
    marks.max()
}
