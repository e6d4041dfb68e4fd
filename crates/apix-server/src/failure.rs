//! Why a command failed, and the exit code that tells a script.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What `apix --help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason (a file, the disk, a fault of APIX)
  2  wrong usage or configuration
  3  refused by the server: a wrong request, a missing permission, or some lines of many
  4  unreachable: no connection, no answer in time, or the broker behind it is away

Configuration: flags over APIX_* environment variables over apix.toml.";

/// What a script decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The command line or the configuration is wrong.
    Usage,
    /// The server understood and said no.
    Refused,
    /// No answer: worth trying again later.
    Unreachable,
    /// Everything else.
    Other,
}

impl Class {
    fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
        }
    }
}

/// A failure with its class. Its message is one line: what was wrong and what would be right.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    /// The server's error code, where it gave one.
    code: Option<String>,
    message: String,
}

impl Failure {
    pub(crate) fn error(class: Class, message: impl Into<String>) -> anyhow::Error {
        Self { class, code: None, message: message.into() }.into()
    }

    /// What the server said: its error code and its message.
    pub(crate) fn said(class: Class, code: &str, message: &str) -> anyhow::Error {
        let message = format!("{message} ({code})");
        Self { class, code: Some(code.to_owned()), message }.into()
    }

    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::error(Class::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> anyhow::Error {
        Self::error(Class::Refused, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> anyhow::Error {
        Self::error(Class::Unreachable, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The class of any error that a command returns.
pub(crate) fn class_of(error: &anyhow::Error) -> Class {
    error.downcast_ref::<Failure>().map_or(Class::Other, |failure| failure.class)
}

/// Whether the server gave this error code.
pub(crate) fn has_code(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.code.as_deref() == Some(code))
}

/// Prints the failure as one line and gives its exit code. A reader that has gone away (`| head`)
/// is no failure.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}").replace(['\n', '\r'], " ");
    crate::terminal::say(format_args!("apix: {line}"));
    ExitCode::from(class_of(error).exit_code())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|fault| fault.kind() == io::ErrorKind::BrokenPipe)
    };
    // Only what was printed counts: a broken connection to the server is classed as unreachable.
    class_of(error) == Class::Other && error.chain().any(broken)
}
