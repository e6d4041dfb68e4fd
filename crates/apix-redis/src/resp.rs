//! Replies as the server writes them (RESP2): where one ends, and what stands in it.
//!
//! A [`Scanner`] finds the end of a reply without copying or building anything, and goes on where
//! it stopped when more bytes have come. The reply is then split off the read buffer as one
//! [`Raw`]; whoever asked for it reads it with a [`Cursor`], or as a tree of [`Reply`].

use std::ops::Range;

use bytes::Bytes;

use crate::error::{malformed, refused};
use apix::{MessageId, Result};

/// The deepest nesting: XINFO STREAM FULL has 7 levels.
const MAX_DEPTH: usize = 16;
/// The longest bulk string that Redis itself allows.
const MAX_BULK_BYTES: usize = 512 << 20;
/// The longest line; errors of scripts are a few hundred bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
/// The most elements of one array.
const MAX_ELEMENTS: usize = 64 << 20;

/// What is not RESP2, or beyond a limit: the connection cannot be used any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotResp(pub(crate) &'static str);

/// Finds where the first reply of a growing buffer ends.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    at: usize,
    /// Elements that are still to come in each open array.
    open: Vec<usize>,
}

impl Scanner {
    /// The length of the first reply of `buffer`, once all of it is there. Until then the buffer
    /// may only grow between two calls; after that the reply is to be removed from it.
    pub(crate) fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, NotResp> {
        while let Some((kind, line, next)) = line_at(buffer, self.at)? {
            match kind {
                b'+' | b'-' => self.at = next,
                b':' => {
                    integer(line)?;
                    self.at = next;
                }
                b'$' => match length(line, MAX_BULK_BYTES)? {
                    None => self.at = next,
                    Some(bytes) => match buffer.get(next + bytes..next + bytes + 2) {
                        None => return Ok(None),
                        Some(b"\r\n") => self.at = next + bytes + 2,
                        Some(_) => return Err(NotResp("a bulk string without its end")),
                    },
                },
                b'*' => {
                    self.at = next;
                    if let Some(elements) = length(line, MAX_ELEMENTS)?
                        && elements > 0
                    {
                        if self.open.len() == MAX_DEPTH {
                            return Err(NotResp("nested too deeply"));
                        }
                        self.open.push(elements);
                        continue;
                    }
                }
                _ => return Err(NotResp("an unknown kind of reply")),
            }
            if self.element_ended() {
                return Ok(Some(std::mem::take(&mut self.at)));
            }
        }
        Ok(None)
    }

    /// Whether that was the last element of the outermost reply.
    fn element_ended(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// The kind, the rest of the line and the position after it; `None` while the line is not whole.
#[allow(clippy::type_complexity)] // three parts of one line, taken apart at once
fn line_at(buffer: &[u8], at: usize) -> Result<Option<(u8, &[u8], usize)>, NotResp> {
    let Some((&kind, rest)) = buffer.get(at..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let window = &rest[..rest.len().min(MAX_LINE_BYTES)];
    match window.iter().position(|&byte| byte == b'\r') {
        Some(end) => match rest.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(Some((kind, &rest[..end], at + 1 + end + 2))),
            Some(_) => Err(NotResp("a line without its end")),
        },
        None if window.len() < MAX_LINE_BYTES => Ok(None),
        None => Err(NotResp("a line that is too long")),
    }
}

fn integer(line: &[u8]) -> Result<i64, NotResp> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(NotResp("not an integer"))
}

fn length(line: &[u8], limit: usize) -> Result<Option<usize>, NotResp> {
    match integer(line)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(Some(length)),
            _ => Err(NotResp("a length out of bounds")),
        },
    }
}

/// One whole reply, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) Bytes);

impl Raw {
    /// The error text, if the reply is an error.
    pub(crate) fn error(&self) -> Option<&[u8]> {
        match self.0.split_first() {
            Some((b'-', text)) => Some(text.strip_suffix(b"\r\n").unwrap_or(text)),
            _ => None,
        }
    }

    /// Fails if the reply is an error.
    pub(crate) fn ok(&self) -> Result<()> {
        self.error().map_or(Ok(()), |text| Err(refused(text)))
    }

    /// Reads from the start; an error of the server is an error here.
    pub(crate) fn cursor(&self) -> Result<Cursor<'_>> {
        self.ok()?;
        Ok(Cursor { raw: &self.0, at: 0 })
    }

    /// The whole as a tree; an error of the server at its top is an error here.
    pub(crate) fn reply(&self) -> Result<Reply> {
        self.cursor()?.reply()
    }
}

/// A reply as a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A status, a bulk string, or the text of an error inside an array.
    Text(Bytes),
    /// An integer.
    Int(i64),
    /// No value.
    Nil,
    /// An array.
    Array(Vec<Reply>),
}

impl Reply {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&Bytes> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text as UTF-8.
    pub(crate) fn utf8(&self) -> Option<&str> {
        self.text().and_then(|text| std::str::from_utf8(text).ok())
    }

    /// The integer, also where it is written as text.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => self.utf8().and_then(|text| text.parse().ok()),
        }
    }

    /// A count: an integer that is not negative.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Int(int) => u64::try_from(*int).ok(),
            _ => self.utf8().and_then(|text| text.parse().ok()),
        }
    }

    /// The id, if it is one.
    pub(crate) fn id(&self) -> Option<MessageId> {
        self.utf8().and_then(|text| text.parse().ok())
    }

    /// The elements; none if it is no array.
    pub(crate) fn array(&self) -> &[Reply] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The value that follows `name` in a flat list of names and values.
    pub(crate) fn field(&self, name: &str) -> Option<&Reply> {
        self.array()
            .chunks_exact(2)
            .find(|pair| pair[0].text().is_some_and(|text| text == name.as_bytes()))
            .map(|pair| &pair[1])
    }
}

/// Reads a reply from front to back.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    raw: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn line(&mut self) -> Result<(u8, &'a [u8])> {
        match line_at(self.raw, self.at) {
            Ok(Some((kind, line, next))) => {
                self.at = next;
                Ok((kind, line))
            }
            _ => Err(malformed("it ends too early")),
        }
    }

    /// The number of elements of an array; `None` for no value.
    pub(crate) fn array(&mut self) -> Result<Option<usize>> {
        match self.line()? {
            (b'*' | b'$', b"-1") => Ok(None),
            (b'*', line) => length(line, MAX_ELEMENTS).map_err(|fault| malformed(fault.0)),
            (b'-', text) => Err(refused(text)),
            _ => Err(malformed("an array was expected")),
        }
    }

    /// An integer.
    pub(crate) fn int(&mut self) -> Result<i64> {
        match self.line()? {
            (b':', line) => integer(line).map_err(|fault| malformed(fault.0)),
            (b'-', text) => Err(refused(text)),
            _ => Err(malformed("an integer was expected")),
        }
    }

    /// Where the bytes of a string lie; `None` for no value.
    fn range(&mut self) -> Result<Option<Range<usize>>> {
        let (kind, line) = self.line()?;
        match kind {
            b'$' => match length(line, MAX_BULK_BYTES).map_err(|fault| malformed(fault.0))? {
                None => Ok(None),
                Some(bytes) => {
                    let range = self.at..self.at + bytes;
                    if range.end + 2 > self.raw.len() {
                        return Err(malformed("it ends too early"));
                    }
                    self.at = range.end + 2;
                    Ok(Some(range))
                }
            },
            b'+' | b':' => Ok(Some(self.at - 2 - line.len()..self.at - 2)),
            b'*' if line == b"-1" => Ok(None),
            b'-' => Err(refused(line)),
            _ => Err(malformed("a string was expected")),
        }
    }

    /// A string, only to be looked at.
    pub(crate) fn peeked_text(&mut self) -> Result<&'a [u8]> {
        let range = self.range()?.ok_or_else(|| malformed("a string was expected"))?;
        Ok(&self.raw[range])
    }

    /// A string that shares the reply's memory; `None` for no value.
    pub(crate) fn text(&mut self) -> Result<Option<Bytes>> {
        Ok(self.range()?.map(|range| self.raw.slice(range)))
    }

    /// A message id.
    pub(crate) fn id(&mut self) -> Result<MessageId> {
        std::str::from_utf8(self.peeked_text()?)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| malformed("a message id was expected"))
    }

    /// The next element as a tree.
    pub(crate) fn reply(&mut self) -> Result<Reply> {
        match self.raw.get(self.at) {
            Some(b'*') => match self.array()? {
                None => Ok(Reply::Nil),
                Some(elements) => {
                    (0..elements).map(|_| self.reply()).collect::<Result<_>>().map(Reply::Array)
                }
            },
            Some(b':') => self.int().map(Reply::Int),
            Some(b'-') => {
                let (_, text) = self.line()?;
                Ok(Reply::Text(self.raw.slice_ref(text)))
            }
            _ => Ok(self.text()?.map_or(Reply::Nil, Reply::Text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    fn encode(reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Int(int) => out.extend_from_slice(format!(":{int}\r\n").as_bytes()),
            Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
            Reply::Text(text) => {
                out.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Array(elements) => {
                out.extend_from_slice(format!("*{}\r\n", elements.len()).as_bytes());
                elements.iter().for_each(|element| encode(element, out));
            }
        }
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Reply::Int),
            Just(Reply::Nil),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|text| Reply::Text(text.into())),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Reply::Array)
        })
    }

    proptest! {
        #[test]
        fn replies_are_read_however_they_are_cut(
            sent in proptest::collection::vec(replies(), 1..6),
            cuts in proptest::collection::vec(1..9usize, 1..50),
        ) {
            let mut wire = Vec::new();
            sent.iter().for_each(|reply| encode(reply, &mut wire));
            let (mut buffer, mut scanner, mut read) = (BytesMut::new(), Scanner::default(), vec![]);
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, others) = rest.split_at((*cut).min(rest.len()));
                buffer.extend_from_slice(part);
                rest = others;
                while let Some(length) = scanner.scan(&buffer).unwrap() {
                    read.push(Raw(buffer.split_to(length).freeze()).reply().unwrap());
                }
            }
            prop_assert_eq!(read, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn no_bytes_whatever_bring_the_scanner_or_the_cursor_down(
            wire in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'1'), Just(b'\r'), Just(b'\n')],
                0..200,
            )
        ) {
            if let Ok(Some(length)) = Scanner::default().scan(&wire) {
                let _ = Raw(Bytes::copy_from_slice(&wire[..length])).reply();
            }
            let _ = Raw(Bytes::from(wire)).reply();
        }
    }

    #[test]
    fn limits_and_errors() {
        let scan = |wire: &[u8]| Scanner::default().scan(wire);
        assert_eq!(scan(b"$5\r\nabc"), Ok(None));
        assert!(scan(b"$600000000\r\n").is_err());
        assert!(scan(b"*1\r\n".repeat(17).as_slice()).is_err());
        assert!(scan(b"$1\r\nabc").is_err());
        assert!(scan(b"!oops\r\n").is_err());
        assert!(scan(&vec![b'+'; 70_000]).is_err());
        let raw = Raw(Bytes::from_static(b"-ERR no\r\n"));
        assert_eq!(raw.error(), Some(&b"ERR no"[..]));
        assert!(raw.reply().is_err());
    }
}
