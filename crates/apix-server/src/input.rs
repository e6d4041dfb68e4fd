//! What a command is given to send: an argument, standard input, a file, or lines of any of them.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::value::RawValue;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::failure::Failure;

/// The longest line, so that a file without line ends cannot fill the memory.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Reads `argument`: JSON text, `-` for standard input or `@FILE`; checks that it is JSON.
pub(crate) async fn read_json(what: &str, argument: Option<&str>) -> Result<Box<RawValue>> {
    let text = match argument {
        None => {
            return Err(Failure::usage(format!(
                "no {what}; give it as an argument, as @FILE, or as - to read standard input"
            )));
        }
        Some("-") => {
            let mut text = String::new();
            tokio::io::stdin().read_to_string(&mut text).await.context("standard input")?;
            text
        }
        Some(argument) => match argument.strip_prefix('@') {
            Some(path) => tokio::fs::read_to_string(path).await.with_context(|| path.to_owned())?,
            None => argument.to_owned(),
        },
    };
    check_json(what, text)
}

/// `text` as JSON, byte for byte.
pub(crate) fn check_json(what: &str, text: String) -> Result<Box<RawValue>> {
    RawValue::from_string(text).map_err(|fault| {
        Failure::usage(format!(
            "the {what} is not JSON ({fault}); text needs quotes of its own, as in '\"hello\"'"
        ))
    })
}

/// Lines of standard input or a file.
pub(crate) struct Lines {
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    number: u64,
}

impl Lines {
    /// `-` or nothing is standard input, `@FILE` a file.
    pub(crate) async fn open(argument: Option<&str>) -> Result<Self> {
        let source: Box<dyn AsyncRead + Send + Unpin> = match argument {
            None | Some("-") => {
                if std::io::stdin().is_terminal() {
                    crate::terminal::say(format_args!(
                        "reading lines from the terminal; Ctrl-D ends them"
                    ));
                }
                Box::new(tokio::io::stdin())
            }
            Some(argument) => match argument.strip_prefix('@') {
                Some(path) => Box::new(open_file(Path::new(path)).await?),
                None => {
                    return Err(Failure::usage(
                        "with --ndjson the lines come from standard input or @FILE, not from the \
                         argument",
                    ));
                }
            },
        };
        Ok(Self { reader: BufReader::with_capacity(64 << 10, source), number: 0 })
    }

    /// The next line with its number, counted from 1, without its end.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(MAX_LINE_BYTES);
        let read = bounded.read_until(b'\n', &mut line).await.context("reading the lines")?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if read as u64 == MAX_LINE_BYTES {
            return Err(Failure::usage(format!(
                "line {} is longer than {} MiB",
                self.number,
                MAX_LINE_BYTES >> 20
            )));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some((self.number, line)))
    }

    /// Whether a whole line can be had without waiting for the source.
    pub(crate) fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

async fn open_file(path: &Path) -> Result<File> {
    File::open(path)
        .await
        .map_err(|fault| Failure::usage(format!("cannot read {}: {fault}", path.display())))
}

/// Whether there is nothing on a line.
pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &'static [u8]) -> Vec<(u64, Vec<u8>)> {
        let source: Box<dyn AsyncRead + Send + Unpin> = Box::new(text);
        let mut lines = Lines { reader: BufReader::new(source), number: 0 };
        let mut out = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            out.push(line);
        }
        out
    }

    #[tokio::test]
    async fn lines_are_numbered_and_the_last_needs_no_end() {
        let expected = vec![(1, b"a".to_vec()), (2, vec![]), (3, b"b".to_vec())];
        assert_eq!(lines(b"a\r\n\nb").await, expected);
        assert_eq!(lines(b"").await, vec![]);
    }

    #[test]
    fn json_is_kept_byte_for_byte() {
        let text = "{\"n\":9007199254740993, \"a\":1, \"a\":2}";
        assert_eq!(check_json("payload", text.to_owned()).unwrap().get(), text);
        let refused = check_json("payload", "hello".to_owned()).unwrap_err().to_string();
        assert!(refused.contains("quotes"), "{refused}");
    }
}
