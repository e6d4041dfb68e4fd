//! Lists of strings in one value, each string with its length before it (`5:hello`): how scripts
//! keep attempts, copies and dead letters.

use bytes::Bytes;
use bytestring::ByteString;

use apix::{Attempt, DeadBody, DeadLetter, Error, ErrorKind, MessageId, Result, TenantId};

use crate::entry;

/// The strings of a list.
fn unpack(text: &Bytes) -> Option<Vec<Bytes>> {
    let (mut list, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let colon = at + text[at..].iter().position(|&byte| byte == b':')?;
        let length: usize = std::str::from_utf8(&text[at..colon]).ok()?.parse().ok()?;
        let end = (colon + 1).checked_add(length).filter(|&end| end <= text.len())?;
        list.push(text.slice(colon + 1..end));
        at = end;
    }
    Some(list)
}

/// A dead letter from its packed form: kind, time, reason, number of attempts, each attempt's time,
/// consumer and reason, then the entry's fields.
pub(crate) fn dead_letter(tenant: &TenantId, id: MessageId, packed: &Bytes) -> Result<DeadLetter> {
    read_dead_letter(tenant, id, packed).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the dead letter {id} cannot be read"))
    })
}

fn read_dead_letter(tenant: &TenantId, id: MessageId, packed: &Bytes) -> Option<DeadLetter> {
    let list = unpack(packed)?;
    let mut parts = list.into_iter();
    let kind = parts.next()?;
    let at_ms = number(&parts.next()?)?;
    let reason = lossy(&parts.next()?);
    let attempts = number(&parts.next()?)?;
    let attempts = (0..attempts)
        .map(|_| {
            Some(Attempt {
                at_ms: number(&parts.next()?)?,
                consumer: lossy(&parts.next()?),
                reason: lossy(&parts.next()?),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let mut fields = Vec::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        fields.push((name, value));
    }
    let body = if kind == "raw" {
        DeadBody::Raw(fields)
    } else {
        DeadBody::Event(Box::new(entry::from_fields(tenant, id, &fields).ok()?))
    };
    Some(DeadLetter { message_id: id, reason, at_ms, attempts, body })
}

fn number(text: &Bytes) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn lossy(text: &Bytes) -> ByteString {
    ByteString::try_from(text.clone())
        .unwrap_or_else(|_| String::from_utf8_lossy(text).into_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = unpack(&Bytes::from_static(b"1:a0:4:\xff:2x")).unwrap();
        assert_eq!(list, [&b"a"[..], b"", b"\xff:2x"]);
        for broken in [&b"1"[..], b"2:a", b"x:a", b"99999999999999999999:a"] {
            assert!(unpack(&Bytes::copy_from_slice(broken)).is_none());
        }
    }
}
