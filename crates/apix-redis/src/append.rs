//! Appending events and showing them live.

use apix::{
    Appended, ChannelKey, Epoch, Error, ErrorKind, HybridAppended, Message, MessageId, NewEvent,
    Result, StreamKey,
};

use crate::entry;
use crate::error::malformed;
use crate::keys;
use crate::local::LocalStream;
use crate::resp::Reply;
use crate::shared::Shared;
use crate::wire::{Arguments, Pipeline, id_text};

/// How long the last position of a channel on a stream is kept after the last event there.
const POSITION_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// How long it is kept which streams feed a channel, after that was last recorded.
const FEEDS_MS: u64 = 30 * 24 * 3_600 * 1_000;
/// A stream or a record that goes away between two steps, again and again, is given up on.
const TRIES: usize = 5;

impl Shared {
    pub(crate) async fn append(
        &self,
        stream: &StreamKey,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Appended>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let local = self.locals.stream(stream);
        let plain = local.is_ensured() && events.iter().all(|event| event.idempotency.is_none());
        if plain && let Some(appended) = self.append_plain(&local, &events).await? {
            local.has_new();
            return Ok(appended);
        }
        let appended = self.append_scripted(&local, "*", &events).await?;
        local.has_new();
        Ok(appended)
    }

    pub(crate) async fn append_after(
        &self,
        stream: &StreamKey,
        expected: Option<MessageId>,
        event: NewEvent,
    ) -> Result<MessageId> {
        let local = self.locals.stream(stream);
        let expected = expected.map(id_text).unwrap_or_default();
        let appended = self.append_scripted(&local, &expected, &[event]).await?;
        local.has_new();
        appended.first().map(|event| event.message_id).ok_or_else(|| malformed("no id"))
    }

    /// Without a script, which costs Redis twice the time. `None` if there is no stream.
    async fn append_plain(
        &self,
        local: &LocalStream,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Appended>>> {
        let tenant = local.key.tenant();
        let bytes: usize = events.iter().map(|event| event.stored_bytes() + 256).sum();
        let mut pipeline = Pipeline::with_capacity(bytes);
        let batch = events.len() > 1;
        if batch {
            pipeline.push(&["MULTI"]);
        }
        for event in events {
            entry::push_xadd(&mut pipeline, &local.keys.stream, tenant, event);
        }
        if batch {
            pipeline.push(&["EXEC"]);
        }
        let replies = self.link(&local.keys.stream).call(pipeline).await?;
        // What was refused while it was queued says why EXEC was.
        for reply in &replies {
            reply.ok()?;
        }
        let last = replies.last().ok_or_else(|| malformed("no reply"))?;
        let mut cursor = last.cursor()?;
        if batch && cursor.array()?.is_none() {
            return Err(malformed("an aborted transaction"));
        }
        let mut appended = Vec::with_capacity(events.len());
        for _ in events {
            let Some(id) = cursor.text()? else {
                local.set_ensured(false);
                return Ok(None);
            };
            let message_id = std::str::from_utf8(&id)
                .ok()
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| malformed("no id"))?;
            appended.push(Appended { message_id, repeated: false });
        }
        Ok(Some(appended))
    }

    async fn append_scripted(
        &self,
        local: &LocalStream,
        expected: &str,
        events: &[NewEvent],
    ) -> Result<Vec<Appended>> {
        for _ in 0..TRIES {
            let mut arguments = Arguments::with_keys(&local.keys.all());
            let was_ensured = local.is_ensured();
            self.push_permission_to_make(local, &mut arguments).await?;
            arguments.push(expected);
            arguments.push(events.len().to_string());
            for event in events {
                entry::push_arguments(&mut arguments, local.key.tenant(), event);
            }
            let link = self.link(&local.keys.stream);
            let reply = self.scripts.append.reply(link, &arguments).await?;
            match reply.array().first().and_then(Reply::utf8) {
                Some("absent") => local.set_ensured(false),
                Some("conflict") => return Err(idempotency_conflict(&reply)),
                Some("moved") => return Err(moved(expected, &reply)),
                _ => {
                    self.ensured(local, was_ensured).await;
                    return reply.array().chunks_exact(2).map(appended).collect();
                }
            }
        }
        Err(keeps_vanishing())
    }

    /// The epoch for a stream that is to be made, and whether it may be. It is listed among its
    /// tenant's first, which is another slot of a cluster and so cannot be in the same script.
    async fn push_permission_to_make(
        &self,
        local: &LocalStream,
        arguments: &mut Arguments,
    ) -> Result<()> {
        if local.is_ensured() {
            arguments.push("");
            arguments.push("0");
        } else {
            self.list_stream(local).await?;
            arguments.push(Epoch::random()?.as_str());
            arguments.push("1");
        }
        Ok(())
    }

    /// The stream is there. Unless that `was` known it may have been made just now, and a deletion
    /// may have taken it off the list between the two steps.
    pub(crate) async fn ensured(&self, local: &LocalStream, was: bool) {
        // Where it fails, the next use of the stream lists it; this one has taken effect.
        local.set_ensured(was || self.list_stream(local).await.is_ok());
    }

    /// Lists the stream among its tenant's.
    pub(crate) async fn list_stream(&self, local: &LocalStream) -> Result<()> {
        let (set, name) = (&*local.keys.tenant_streams, local.key.stream().as_str());
        let listed = self.link(set).command(&["SADD", set, name]).await?.ok();
        match listed {
            // Where memory is full, what was listed before is well.
            Err(fault) if fault.kind() == ErrorKind::StorageFull => {
                let is_member = self.link(set).command(&["SISMEMBER", set, name]).await?;
                if is_member.cursor()?.int()? == 1 { Ok(()) } else { Err(fault) }
            }
            listed => listed,
        }
    }

    pub(crate) async fn publish_hybrid(
        &self,
        stream: &StreamKey,
        channel: &ChannelKey,
        mut event: NewEvent,
    ) -> Result<HybridAppended> {
        event.realtime_channel = Some(channel.channel().clone());
        let local = self.locals.stream(stream);
        let open = Message::open_form(channel, &event);
        for _ in 0..TRIES {
            let was_ensured = local.is_ensured();
            let known = local.knows_feed(channel.channel());
            if !known {
                self.record_feed(&local, channel).await?;
            }
            let [a, b, c, d, e, f] = local.keys.all();
            let at = local.keys.at(channel.channel());
            let mut arguments = Arguments::with_keys(&[a, b, c, d, e, f, &at]);
            self.push_permission_to_make(&local, &mut arguments).await?;
            arguments.push(if known { "0" } else { "1" });
            arguments.push(POSITION_MS.to_string());
            arguments.push(keys::channel(channel));
            arguments.push(channel.channel().as_str());
            arguments.push(&open);
            arguments.push(stream.stream().as_str());
            entry::push_arguments(&mut arguments, stream.tenant(), &event);
            let link = self.link(&local.keys.stream);
            let reply = self.scripts.hybrid.reply(link, &arguments).await?;
            match reply.array().first().and_then(Reply::utf8) {
                Some("absent") => local.set_ensured(false),
                Some("feed") => local.forget_feed(channel.channel()),
                Some("conflict") => return Err(idempotency_conflict(&reply)),
                _ => {
                    self.ensured(&local, was_ensured).await;
                    local.remember_feed(channel.channel());
                    local.has_new();
                    return hybrid_appended(reply.array());
                }
            }
        }
        Err(keeps_vanishing())
    }

    async fn record_feed(&self, local: &LocalStream, channel: &ChannelKey) -> Result<()> {
        let feeds = keys::feeds(channel);
        let mut pipeline = Pipeline::of(&["SADD", &feeds, local.key.stream().as_str()]);
        pipeline.push(&["PEXPIRE", &feeds, &FEEDS_MS.to_string()]);
        for reply in self.link(&feeds).call(pipeline).await? {
            reply.ok()?;
        }
        Ok(())
    }
}

fn appended(pair: &[Reply]) -> Result<Appended> {
    let message_id = pair[0].id().ok_or_else(|| malformed("no id"))?;
    Ok(Appended { message_id, repeated: pair[1] == Reply::Int(1) })
}

fn hybrid_appended(parts: &[Reply]) -> Result<HybridAppended> {
    let [id, repeated, receivers] = parts else { return Err(malformed("no id")) };
    Ok(HybridAppended {
        message_id: id.id().ok_or_else(|| malformed("no id"))?,
        repeated: *repeated == Reply::Int(1),
        subscriber_count: receivers.count(),
    })
}

fn idempotency_conflict(reply: &Reply) -> Error {
    let key = reply.array().get(1).and_then(Reply::utf8).unwrap_or_default();
    Error::new(
        ErrorKind::IdempotencyConflict,
        format!("the idempotency key {key:?} was used with another body; use a new key"),
    )
}

fn moved(expected: &str, reply: &Reply) -> Error {
    let last = reply.array().get(1).and_then(Reply::utf8).unwrap_or_default();
    let shown = |id: &str| if id.is_empty() { "none".to_owned() } else { id.to_owned() };
    Error::new(
        ErrorKind::Conflict,
        format!("the stream's last id is {}, not {}", shown(last), shown(expected)),
    )
}

fn keeps_vanishing() -> Error {
    Error::unavailable("the stream was deleted again and again while it was written to")
}
