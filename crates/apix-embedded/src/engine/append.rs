//! Appending: all of a batch or none, each idempotency key once.

use std::collections::HashMap;

use apix::{
    Appended, ChannelKey, Error, ErrorKind, Idempotency, MessageId, NewEvent, Origin, Result,
    StreamKey,
};
use bytestring::ByteString;

use super::state::Engine;
use super::turn::Turn;
use crate::codec::event::EventBody;
use crate::codec::rows::{IndexRecord, KeyRecord};
use crate::group::StreamNo;
use crate::slots::Slot;
use crate::stream_state::{KnownKey, StreamState};

/// An event that the caller's task has encoded already.
#[derive(Debug)]
pub(crate) struct Prepared {
    body: EventBody,
    bytes: u32,
    idempotency: Option<Idempotency>,
}

impl Prepared {
    pub(crate) fn new(event: &NewEvent) -> Self {
        Self {
            body: EventBody::new(event),
            bytes: u32::try_from(event.stored_bytes()).unwrap_or(u32::MAX),
            idempotency: event.idempotency.clone(),
        }
    }
}

/// What an event of a batch turns out to be.
#[derive(Clone, Copy, Debug)]
enum Fate {
    New,
    /// Its key was known before.
    Known(MessageId),
    /// Its key is that of an earlier event of the batch.
    SameAs(usize),
}

impl Engine {
    /// Appends a batch.
    pub(crate) fn append(
        &mut self,
        turn: &mut Turn,
        key: &StreamKey,
        events: Vec<Prepared>,
    ) -> Result<Vec<Appended>> {
        let fates = fates(self.stream(key).ok(), &events, turn.now.unix_ms)?;
        let stream = self.ensure_stream(turn, key)?;
        let mut appended: Vec<Appended> = Vec::with_capacity(events.len());
        for (event, fate) in events.into_iter().zip(fates) {
            let (message_id, repeated) = match fate {
                Fate::New => (self.add_event(turn, stream, event, 0, None)?, false),
                Fate::Known(id) => (id, true),
                Fate::SameAs(first) => (appended[first].message_id, true),
            };
            appended.push(Appended { message_id, repeated });
        }
        self.wake_readers(turn, stream);
        Ok(appended)
    }

    /// Appends one event if the last id is `expected`.
    pub(crate) fn append_after(
        &mut self,
        turn: &mut Turn,
        key: &StreamKey,
        expected: Option<MessageId>,
        event: Prepared,
    ) -> Result<MessageId> {
        let known = self.stream(key).ok();
        let fates = fates(known, std::slice::from_ref(&event), turn.now.unix_ms)?;
        if let [Fate::Known(id)] = fates[..] {
            return Ok(id);
        }
        let last = known.and_then(|stream| stream.last_id);
        if last != expected {
            let at = last.map_or_else(|| "no event yet".to_owned(), |id| format!("last id {id}"));
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the stream '{}' has {at}; read it and try again", key.stream()),
            ));
        }
        let stream = self.ensure_stream(turn, key)?;
        let id = self.add_event(turn, stream, event, 0, None)?;
        self.wake_readers(turn, stream);
        Ok(id)
    }

    /// Appends a hybrid event. Returns whether it is a repeat, and where it stands.
    pub(crate) fn append_hybrid(
        &mut self,
        turn: &mut Turn,
        key: &StreamKey,
        channel: &ChannelKey,
        event: Prepared,
    ) -> Result<(bool, Origin)> {
        let known = self.stream(key).ok();
        let fates = fates(known, std::slice::from_ref(&event), turn.now.unix_ms)?;
        let known = match fates[..] {
            [Fate::Known(id)] => Some(id),
            _ => None,
        };
        let no = self.ensure_stream(turn, key)?;
        let (message_id, prev_message_id) = match known {
            Some(id) => (id, None),
            None => {
                let feed = self.ensure_feed(turn, key, channel);
                let previous = self.feeds.tip(feed);
                let id = self.add_event(turn, no, event, feed, previous)?;
                self.feeds.advance(feed, id);
                self.wake_readers(turn, no);
                (id, previous)
            }
        };
        let epoch = self.stream(key)?.epoch.clone();
        let stream = key.stream().clone();
        Ok((known.is_some(), Origin { stream, message_id, prev_message_id, epoch }))
    }

    fn add_event(
        &mut self,
        turn: &mut Turn,
        no: StreamNo,
        event: Prepared,
        feed: u64,
        previous: Option<MessageId>,
    ) -> Result<MessageId> {
        let gone = || Error::new(ErrorKind::Internal, "the stream is gone");
        let stream = self.streams.get_mut(&no).ok_or_else(gone)?;
        let last = stream.last_id.unwrap_or(MessageId::MIN);
        let id = MessageId::following(last, turn.now.unix_ms);
        let record = event.body.complete(id, previous);
        let pos = self.next_pos + turn.batch.entries.len() as u64;
        let bytes = record.len();
        turn.batch.entries.push(record.clone());
        turn.batch.index.push(IndexRecord { stream: no, id, bytes: event.bytes, feed });
        turn.batch.flush = true;
        let slot = Slot { ms: id.ms, seq: id.seq, pos, bytes: event.bytes };
        stream.push(slot, Some(record));
        if let Some(Idempotency { key, digest }) = event.idempotency {
            // A text of its own: the caller's may be a small part of a large body.
            let key = ByteString::from(&*key);
            let at_ms = turn.now.unix_ms;
            let known = KnownKey { digest, id, at_ms, row: self.next_keys_row };
            turn.released_keys.extend(stream.forget_keys(at_ms));
            turn.released_keys.extend(stream.keys.insert(key.clone(), known));
            turn.released_keys.extend(stream.forget_keys(at_ms));
            turn.batch.keys.push(KeyRecord { stream: no, key, digest, id, at_ms });
        }
        self.remember_tail(no, pos, bytes);
        self.trim.mark(no);
        Ok(id)
    }

    /// Lets the readers that wait for events of the stream be served.
    fn wake_readers(&mut self, turn: &mut Turn, no: StreamNo) {
        let Some(stream) = self.streams.get(&no) else { return };
        for group in stream.groups.values() {
            if self.groups.get(group).is_some_and(|group| !group.waiters.is_empty()) {
                turn.touched.push(*group);
            }
        }
    }
}

/// What each event of a batch turns out to be, or the conflict that refuses all of it.
fn fates(stream: Option<&StreamState>, events: &[Prepared], now_ms: u64) -> Result<Vec<Fate>> {
    let mut within: HashMap<&str, usize> = HashMap::new();
    let mut fates = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let Some(Idempotency { key, digest }) = &event.idempotency else {
            fates.push(Fate::New);
            continue;
        };
        let known =
            stream.and_then(|stream| stream.keys.get(key, &stream.settings.idempotency, now_ms));
        let (fate, known_digest) = match (known, within.get(&**key)) {
            (Some(known), _) => (Fate::Known(known.id), Some(known.digest)),
            (None, Some(&first)) => {
                let first_digest = events[first].idempotency.as_ref().map(|known| known.digest);
                (Fate::SameAs(first), first_digest)
            }
            (None, None) => {
                within.insert(key, index);
                (Fate::New, None)
            }
        };
        if known_digest.is_some_and(|known| known != *digest) {
            return Err(Error::new(
                ErrorKind::IdempotencyConflict,
                format!(
                    "the idempotency key {key:?} was used with another body; a repeat must have \
                     the same body, and another event needs another key"
                ),
            ));
        }
        fates.push(fate);
    }
    Ok(fates)
}
