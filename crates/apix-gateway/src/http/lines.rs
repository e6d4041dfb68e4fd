//! Lines out of a body that comes in pieces, with a bound on how long one may be.

use bytes::{Bytes, BytesMut};

/// Collects pieces and gives out whole lines.
pub(super) struct Lines {
    buffer: BytesMut,
    /// So much of the buffer holds no line break.
    scanned: usize,
    max_bytes: usize,
    /// The rest of a line that was too long is on its way.
    skipping: bool,
    number: u64,
}

/// One line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, blank ones too.
    pub(super) number: u64,
    /// Without its line break; `None` if it was too long to be kept.
    pub(super) text: Option<Bytes>,
}

impl Lines {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, max_bytes, skipping: false, number: 0 }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The number of the line that is given out next.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    /// The next line that is there as a whole.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let found = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n');
            let Some(at) = found.map(|at| self.scanned + at) else {
                self.scanned = self.buffer.len();
                return self.overlong();
            };
            let mut line = self.buffer.split_to(at + 1);
            line.truncate(at);
            self.scanned = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Some(line) = self.line(line.freeze()) {
                return Some(line);
            }
        }
    }

    /// What stands after the last line break, once nothing follows it.
    pub(super) fn last(&mut self) -> Option<Line> {
        self.scanned = 0;
        let rest = self.buffer.split().freeze();
        if std::mem::take(&mut self.skipping) { None } else { self.line(rest) }
    }

    /// Gives up a line that has grown too long before its end is there.
    fn overlong(&mut self) -> Option<Line> {
        if !self.skipping && self.buffer.len() <= self.max_bytes {
            return None;
        }
        self.buffer.clear();
        self.scanned = 0;
        if std::mem::replace(&mut self.skipping, true) {
            return None;
        }
        self.number += 1;
        Some(Line { number: self.number, text: None })
    }

    fn line(&mut self, text: Bytes) -> Option<Line> {
        self.number += 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let text = (text.len() <= self.max_bytes).then_some(text);
        Some(Line { number: self.number, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]], max_bytes: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(max_bytes);
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece);
            out.extend(std::iter::from_fn(|| lines.next()));
        }
        out.extend(lines.last());
        out.into_iter()
            .map(|line| {
                let text = line.text.map(|text| String::from_utf8_lossy(&text).into_owned());
                (line.number, text)
            })
            .collect()
    }

    #[test]
    fn blank_lines_count_and_the_last_needs_no_break() {
        let right =
            vec![(1, Some("a".to_owned())), (3, Some("b\r".to_owned())), (4, Some("c".to_owned()))];
        assert_eq!(all(&[b"a\n\nb", b"\r\nc"], 10), right);
        assert_eq!(all(&[b"", b"\r\n"], 10), vec![]);
    }

    #[test]
    fn a_long_line_is_named_once_and_stops_nobody() {
        let right =
            vec![(1, None), (2, Some("b".to_owned())), (3, None), (4, Some("d".to_owned()))];
        assert_eq!(all(&[b"aaa", b"aaa", b"aa\nb\n", b"cccccc\nd"], 4), right);
        let mut lines = Lines::new(4);
        for _ in 0..1_000 {
            lines.push(&[b'x'; 1_000]);
            lines.next();
            assert!(lines.buffer.len() <= 4);
        }
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(text in "[a\\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            let right: Vec<_> = (1u64..)
                .zip(text.split('\n'))
                .filter(|(_, line)| !line.is_empty())
                .map(|(number, line)| (number, (line.len() <= 5).then(|| line.to_owned())))
                .collect();
            prop_assert_eq!(all(&pieces, 5), right);
        }
    }
}
