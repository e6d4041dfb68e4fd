//! Commands as the server reads them.

use std::io::Write;

use apix::MessageId;

/// Commands that are written as one piece and answered in order, a reply each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipeline {
    bytes: Vec<u8>,
    commands: usize,
}

impl Pipeline {
    /// No commands yet, with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), commands: 0 }
    }

    /// One command.
    pub(crate) fn of<A: AsRef<[u8]>>(parts: &[A]) -> Self {
        let mut pipeline = Self::default();
        pipeline.push(parts);
        pipeline
    }

    /// Adds a command.
    pub(crate) fn push<A: AsRef<[u8]>>(&mut self, parts: &[A]) {
        self.begin(parts.len());
        for part in parts {
            self.part(part);
        }
    }

    /// Begins a command of so many parts, its name included; [`part`](Self::part) adds them.
    pub(crate) fn begin(&mut self, parts: usize) {
        self.commands += 1;
        begin_array(&mut self.bytes, parts);
    }

    /// A part of the command that was begun.
    pub(crate) fn part(&mut self, part: impl AsRef<[u8]>) {
        write_part(&mut self.bytes, part.as_ref());
    }

    /// Adds a command whose parts were written before.
    pub(crate) fn push_written(&mut self, command: &[u8]) {
        self.commands += 1;
        self.bytes.extend_from_slice(command);
    }

    /// How many replies there will be.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// The bytes to send.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The keys and arguments of a script, written once for both ways to call it.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    bytes: Vec<u8>,
    parts: usize,
}

impl Arguments {
    /// The keys come first.
    pub(crate) fn with_keys<K: AsRef<[u8]>>(keys: &[K]) -> Self {
        let mut arguments = Self { bytes: Vec::with_capacity(1_024), parts: 0 };
        arguments.push(keys.len().to_string());
        for key in keys {
            arguments.push(key);
        }
        arguments
    }

    /// One more argument.
    pub(crate) fn push(&mut self, argument: impl AsRef<[u8]>) {
        self.parts += 1;
        write_part(&mut self.bytes, argument.as_ref());
    }

    /// One more argument, and the arguments again.
    #[must_use]
    pub(crate) fn and(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument);
        self
    }

    /// The whole command: `name` (EVALSHA or EVAL), `script` (digest or source) and these.
    pub(crate) fn command(&self, name: &str, script: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + script.len() + 64);
        begin_array(&mut out, self.parts + 2);
        write_part(&mut out, name.as_bytes());
        write_part(&mut out, script.as_bytes());
        out.extend_from_slice(&self.bytes);
        out
    }
}

fn begin_array(out: &mut Vec<u8>, parts: usize) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "*{parts}\r\n");
}

fn write_part(out: &mut Vec<u8>, part: &[u8]) {
    let _ = write!(out, "${}\r\n", part.len());
    out.extend_from_slice(part);
    out.extend_from_slice(b"\r\n");
}

/// The id as the server knows it. Redis streams have no partition in their ids.
pub(crate) fn id_text(id: MessageId) -> String {
    format!("{}-{}", id.ms, id.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut pipeline = Pipeline::of(&["PING"]);
        pipeline.push(&[&b"SET"[..], b"k", b"\r\n"]);
        assert_eq!(pipeline.commands(), 2);
        assert_eq!(
            pipeline.into_bytes(),
            b"*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"
        );
        let arguments = Arguments::with_keys(&["k"]).and("a");
        assert_eq!(
            arguments.command("EVALSHA", "x"),
            b"*5\r\n$7\r\nEVALSHA\r\n$1\r\nx\r\n$1\r\n1\r\n$1\r\nk\r\n$1\r\na\r\n"
        );
    }
}
