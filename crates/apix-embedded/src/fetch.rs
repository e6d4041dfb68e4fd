//! From what the engine has found to events: decoded in the caller's task, and read from the store
//! where they are no longer in memory.

use std::sync::Arc;

use apix::{DeadBody, DeadLetter, Error, GroupKey, MessageId, Result, StoredEvent};
use bytes::Bytes;

use crate::codec::event;
use crate::codec::rows::DeadRecord;
use crate::store::{ReadPool, Wanted, damaged};
use crate::waiting::{Found, FoundIn, Source};

/// One event, or what is wrong with it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are events
pub(crate) enum Fetched {
    /// Here it is.
    Event(StoredEvent),
    /// The store does not have it: it was removed meanwhile, or lost.
    Missing(Found),
    /// It does not read back.
    Damaged(Error),
}

/// Fetches and decodes all that was found, in order.
pub(crate) async fn fetch(reads: Option<&Arc<ReadPool>>, found: FoundIn) -> Result<Vec<Fetched>> {
    let wanted: Vec<Wanted> = found.events.iter().filter_map(wanted).collect();
    let mut read = match reads {
        Some(reads) if !wanted.is_empty() => reads.fetch(wanted).await?,
        _ => Vec::new(),
    }
    .into_iter();
    let tenant = &found.tenant;
    let stream = &found.stream;
    let fetched = found.events.into_iter().map(|one| {
        let record: Option<Bytes> = match &one.source {
            Source::Cached(record) => Some(record.clone()),
            Source::Entry(_) | Source::Copy(_) => read.next().flatten(),
        };
        let Some(record) = record else { return Fetched::Missing(one) };
        match event::decode(tenant, one.id, &record) {
            Some(event) => Fetched::Event(event),
            None => Fetched::Damaged(damaged(format_args!(
                "apix.db: {}, event {} of tenant:{tenant}:stream:{stream}",
                place(&one.source),
                one.id
            ))),
        }
    });
    Ok(fetched.collect())
}

fn wanted(found: &Found) -> Option<Wanted> {
    match found.source {
        Source::Cached(_) => None,
        Source::Entry(pos) => Some(Wanted::Entry(pos)),
        Source::Copy(group) => Some(Wanted::Copy(group, found.id)),
    }
}

fn place(source: &Source) -> String {
    match source {
        Source::Cached(_) => "memory".to_owned(),
        Source::Entry(pos) => format!("table entry, pos {pos}"),
        Source::Copy(group) => format!("table group_copy, grp {group}"),
    }
}

/// A dead letter from its row.
pub(crate) fn dead_letter(group: &GroupKey, id: MessageId, data: Bytes) -> Result<DeadLetter> {
    let damage = || damaged(format_args!("apix.db: table dead_letter, event {id} of {group}"));
    let record = DeadRecord::decode(data).ok_or_else(damage)?;
    let body = if record.event.is_empty() {
        DeadBody::Raw(vec![("fault".into(), record.reason.as_bytes().clone())])
    } else {
        let event = event::decode(group.stream.tenant(), id, &record.event);
        DeadBody::Event(Box::new(event.ok_or_else(damage)?))
    };
    Ok(DeadLetter {
        message_id: id,
        reason: record.reason,
        at_ms: record.at_ms,
        attempts: record.attempts,
        body,
    })
}
