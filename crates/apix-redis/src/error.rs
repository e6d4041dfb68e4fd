//! What the server, the connection or stored data say no with, as the errors of APIX.

use std::borrow::Cow;

use apix::{Error, ErrorKind};

/// The error of a reply such as `WRONGTYPE Operation against a key …`.
pub(crate) fn refused(text: &[u8]) -> Error {
    let text = String::from_utf8_lossy(text).into_owned();
    let code = text.split(' ').next().unwrap_or_default();
    // Inside EXEC and scripts the code of the inner command may be quoted.
    let says = |word: &str| code == word || text.contains(&format!(" {word} "));
    let (kind, message) = if says("OOM") {
        (ErrorKind::StorageFull, "Redis is out of memory (maxmemory); nothing was stored")
    } else if says("WRONGTYPE") {
        (ErrorKind::Conflict, "the key in Redis holds something else than a stream")
    } else if says("MISCONF") {
        (ErrorKind::StorageFull, "Redis cannot write to its disk and refuses writes")
    } else if says("NOAUTH") {
        (ErrorKind::Unavailable, "Redis asks for a password; set the user and password")
    } else if says("WRONGPASS") {
        (ErrorKind::Unavailable, "Redis refuses the user name or password; check both")
    } else if says("NOPERM") {
        (ErrorKind::Unavailable, "the Redis user lacks a permission that APIX needs (ACL)")
    } else if says("LOADING") {
        (ErrorKind::Unavailable, "Redis is loading its data; try again in a moment")
    } else if says("READONLY") {
        (ErrorKind::Unavailable, "this Redis is a read-only replica; connect to its primary")
    } else if says("MASTERDOWN") {
        (ErrorKind::Unavailable, "this Redis replica has lost its primary")
    } else if says("NOREPLICAS") {
        (ErrorKind::Unavailable, "Redis has too few replicas to accept writes")
    } else if says("BUSY") {
        (ErrorKind::Unavailable, "Redis is busy with a long script")
    } else if says("NOGROUP") {
        (ErrorKind::NotFound, "there is no such consumer group")
    } else if says("UNBLOCKED") {
        (ErrorKind::Unavailable, "the stream was deleted while it was being read")
    } else if says("CLUSTERDOWN") || says("MOVED") || says("ASK") || says("CROSSSLOT") {
        (
            ErrorKind::Unsupported,
            "this server is part of a Redis Cluster; redis:// is for one server",
        )
    } else {
        (ErrorKind::Internal, "Redis refused a command of APIX")
    };
    Error::new(kind, message).with_source(text)
}

/// A reply that does not have the shape that it should.
pub(crate) fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "a reply of Redis could not be read").with_source(what)
}

const BROKEN: &str = "the connection to Redis broke; whether the call took effect is unknown";

/// The connection broke, or the answer did not come: whether the call took effect is unknown.
pub(crate) fn broken(why: impl Into<Cow<'static, str>>) -> Error {
    Error::unavailable(BROKEN).with_source(why.into().into_owned())
}

/// Whether the connection broke.
pub(crate) fn is_broken(error: &Error) -> bool {
    error.message() == BROKEN
}

const NOT_SENT: &str = "Redis cannot be reached; the call was not sent";
const CLOSED: &str = "the broker has been closed";

/// Whether it is about the connection or the server: another call would fare no better. All else is about what
/// the call was for.
pub(crate) fn is_disconnected(error: &Error) -> bool {
    [BROKEN, NOT_SENT, CLOSED].contains(&error.message())
        || error.kind() == ErrorKind::DurabilityUnmet
}

/// The call was never sent.
pub(crate) fn not_sent(why: impl Into<Cow<'static, str>>) -> Error {
    Error::unavailable(NOT_SENT).with_source(why.into().into_owned())
}

/// The broker was closed.
pub(crate) fn closed() -> Error {
    Error::unavailable(CLOSED)
}

/// The setting of this name cannot be used as it stands.
pub(crate) fn wrong_setting(message: impl Into<Cow<'static, str>>) -> Error {
    Error::invalid(message)
}

/// The inner cause as text, for logs.
pub(crate) fn cause(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// Whether it is an error of Redis that begins with this code, or quotes it.
pub(crate) fn has_code(error: &Error, code: &str) -> bool {
    std::error::Error::source(error).is_some_and(|source| {
        let text = source.to_string();
        text.starts_with(code) || text.contains(&format!(" {code} "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (text, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::StorageFull),
            ("ERR Error running script: OOM command not allowed", ErrorKind::StorageFull),
            ("WRONGTYPE Operation against a key", ErrorKind::Conflict),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("NOGROUP No such key 'x'", ErrorKind::NotFound),
            ("ERR unknown command", ErrorKind::Internal),
        ] {
            assert_eq!(refused(text.as_bytes()).kind(), kind, "{text}");
        }
        assert!(has_code(&refused(b"NOGROUP x"), "NOGROUP"));
        assert!(is_disconnected(&not_sent("")) && !is_disconnected(&refused(b"LOADING x")));
    }
}
