//! The state of a group: what changed in one commit, or all of it. Both have the same form, so
//! that a snapshot is a change that voids what was before.

use apix::{Attempt, ConsumerName, MessageId};
use bytes::Bytes;

use super::wire::{Decoder, Encoder};
use crate::held::{Held, HeldState};

const GONE: u8 = 0;
const OUT: u8 = 1;
const PARKED: u8 = 2;
const WITH_COPY: u8 = 4;
const WITH_ATTEMPTS: u8 = 8;
const SAME_CONSUMER: u8 = 16;

/// How an event that waits is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParkedRecord {
    pub(crate) due_unix_ms: u64,
    pub(crate) delay_ms: u64,
}

/// How a held event is stored.
#[derive(Debug)]
pub(crate) struct HeldRecord {
    pub(crate) count: u32,
    pub(crate) consumer: Option<ConsumerName>,
    pub(crate) parked: Option<ParkedRecord>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) copied: bool,
}

/// What a row says of a group.
#[derive(Debug)]
pub(crate) struct GroupRecord {
    pub(crate) cursor: MessageId,
    pub(crate) lost: u64,
    /// Everything held before is void.
    pub(crate) reset: bool,
    /// Events, with what is now held of them.
    pub(crate) held: Vec<(MessageId, Option<HeldRecord>)>,
}

/// Writes a row. `count` is how many `items` there are.
pub(crate) fn encode<'a>(
    cursor: MessageId,
    lost: u64,
    reset: bool,
    count: usize,
    items: impl Iterator<Item = (MessageId, Option<&'a Held>)>,
) -> Vec<u8> {
    let mut out = Encoder::with_capacity(32 + count * 12);
    out.id(cursor);
    out.number(lost);
    out.byte(u8::from(reset));
    out.number(count as u64);
    let mut before = 0;
    let mut last_consumer: Option<&ConsumerName> = None;
    for (id, held) in items {
        // Ids ascend, so that the step from one to the next is small.
        out.number(id.ms.wrapping_sub(before));
        out.number(id.seq);
        before = id.ms;
        match held {
            None => out.byte(GONE),
            Some(held) => write_held(&mut out, held, &mut last_consumer),
        }
    }
    out.sealed()
}

fn write_held<'a>(out: &mut Encoder, held: &'a Held, last: &mut Option<&'a ConsumerName>) {
    let parked = match held.state {
        HeldState::Out { .. } | HeldState::Expired { .. } => None,
        HeldState::Parked { due_unix_ms, delay_ms, .. } => Some((due_unix_ms, delay_ms)),
        HeldState::Due { .. } => Some((0, 0)),
    };
    let same = held.consumer.is_some() && held.consumer.as_ref() == *last;
    let mut tag = if parked.is_some() { PARKED } else { OUT };
    tag |= if held.copy.is_some() { WITH_COPY } else { 0 };
    tag |= if held.attempts.is_empty() { 0 } else { WITH_ATTEMPTS };
    tag |= if same { SAME_CONSUMER } else { 0 };
    out.byte(tag);
    out.number(u64::from(held.count));
    if !same {
        out.text(held.consumer.as_ref().map_or("", ConsumerName::as_str));
        *last = held.consumer.as_ref();
    }
    if let Some((due, delay)) = parked {
        out.number(due);
        out.number(delay);
    }
    if !held.attempts.is_empty() {
        write_attempts(out, &held.attempts);
    }
}

pub(super) fn write_attempts(out: &mut Encoder, attempts: &[Attempt]) {
    out.number(attempts.len() as u64);
    for attempt in attempts {
        out.number(attempt.at_ms);
        out.text(&attempt.consumer);
        out.text(&attempt.reason);
    }
}

pub(super) fn read_attempts(from: &mut Decoder) -> Option<Vec<Attempt>> {
    let count = from.number()?;
    let mut attempts = Vec::new();
    for _ in 0..count {
        attempts.push(Attempt {
            at_ms: from.number()?,
            consumer: from.text()?,
            reason: from.text()?,
        });
    }
    Some(attempts)
}

/// Reads a row; `None` if it is damaged.
pub(crate) fn decode(row: Bytes) -> Option<GroupRecord> {
    let mut from = Decoder::sealed(row)?;
    let cursor = from.id()?;
    let lost = from.number()?;
    let reset = from.byte()? == 1;
    let count = from.number()?;
    let mut held = Vec::new();
    let mut ms = 0_u64;
    let mut last_consumer = None;
    for _ in 0..count {
        ms = ms.wrapping_add(from.number()?);
        let id = MessageId::new(ms, from.number()?);
        let tag = from.byte()?;
        let record =
            if tag == GONE { None } else { Some(read_held(&mut from, tag, &mut last_consumer)?) };
        held.push((id, record));
    }
    Some(GroupRecord { cursor, lost, reset, held })
}

fn read_held(from: &mut Decoder, tag: u8, last: &mut Option<ConsumerName>) -> Option<HeldRecord> {
    let count = u32::try_from(from.number()?).ok()?;
    if tag & SAME_CONSUMER == 0 {
        let name = from.text()?;
        *last = if name.is_empty() { None } else { Some(ConsumerName::new(name).ok()?) };
    }
    let parked = if tag & PARKED != 0 {
        Some(ParkedRecord { due_unix_ms: from.number()?, delay_ms: from.number()? })
    } else {
        None
    };
    let attempts = if tag & WITH_ATTEMPTS != 0 { read_attempts(from)? } else { Vec::new() };
    Some(HeldRecord {
        count,
        consumer: last.clone(),
        parked,
        attempts,
        copied: tag & WITH_COPY != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_reads_back() {
        let anna = ConsumerName::new("anna").unwrap();
        let attempt = Attempt { at_ms: 5, consumer: "anna".into(), reason: "no".into() };
        let out = Held {
            count: 2,
            consumer: Some(anna.clone()),
            state: HeldState::Out { until: 9 },
            attempts: vec![attempt.clone()],
            copy: None,
        };
        let state = HeldState::Parked { until: 1, due_unix_ms: 77, delay_ms: 7 };
        let parked = Held { state, attempts: Vec::new(), ..out.clone() };
        let ids = [MessageId::new(5, 1), MessageId::new(5, 2), MessageId::new(8, 0)];
        let items = [Some(&out), None, Some(&parked)];
        let row = encode(ids[2], 3, true, 3, ids.into_iter().zip(items));
        let read = decode(row.into()).unwrap();
        assert_eq!((read.cursor, read.lost, read.reset), (ids[2], 3, true));
        let first = read.held[0].1.as_ref().unwrap();
        assert_eq!((first.count, &first.attempts), (2, &vec![attempt]));
        assert!(read.held[1].1.is_none());
        let last = read.held[2].1.as_ref().unwrap();
        assert_eq!(last.consumer.as_ref(), Some(&anna));
        assert_eq!(last.parked, Some(ParkedRecord { due_unix_ms: 77, delay_ms: 7 }));
    }
}
