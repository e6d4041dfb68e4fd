//! Retention, at intervals and on request. The script that decides is bounded a call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tracing::warn;

use apix::{ErrorKind, Result, StreamKey, TenantId};

use crate::error::{cause, is_disconnected, malformed};
use crate::local::LocalStream;
use crate::resp::Reply;
use crate::shared::Shared;
use crate::streams::no_such_stream;
use crate::wire::{Arguments, Pipeline};

/// Streams that were used here within this time are trimmed at each interval.
const IN_USE: Duration = Duration::from_secs(600);
/// All other streams of the tenants that are known here, at this interval.
const OTHERS_EVERY: Duration = Duration::from_secs(600);
/// Streams that are trimmed in one round trip.
const AT_ONCE: usize = 64;
/// At each interval a stream is trimmed by so many calls at most, so that others get their turn.
const CALLS: usize = 50;

impl Shared {
    /// Applies retention once, now.
    pub(crate) async fn trim(&self, stream: &StreamKey) -> Result<u64> {
        let local = self.locals.stream(stream);
        let key = &*local.keys.stream;
        if self.link(key).command(&["EXISTS", key]).await?.cursor()?.int()? == 0 {
            return Err(no_such_stream(stream));
        }
        Ok(self.trim_once(&local, Duration::ZERO).await?.0)
    }

    /// How many entries were removed, and whether there may be more.
    async fn trim_once(&self, local: &LocalStream, every: Duration) -> Result<(u64, bool)> {
        let link = self.link(&local.keys.stream);
        read_trim(&self.scripts.trim.reply(link, &trim_arguments(local, every)).await?)
    }

    /// Trims at intervals until the broker is closed.
    pub(crate) async fn keep_trimming(self: Arc<Self>) {
        let mut interval = tokio::time::interval(self.options.trim_every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut others_at = Instant::now() + OTHERS_EVERY;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.closing.cancelled() => return,
            }
            let mut streams: BTreeSet<StreamKey> =
                self.locals.recent(IN_USE).iter().map(|stream| stream.key.clone()).collect();
            if Instant::now() >= others_at {
                others_at = Instant::now() + OTHERS_EVERY;
                self.add_others(&mut streams).await;
            }
            if let Err(fault) = self.trim_all(&streams).await {
                warn!(error = %fault, cause = cause(&fault), "could not apply retention");
            }
        }
    }

    async fn add_others(&self, streams: &mut BTreeSet<StreamKey>) {
        let tenants: BTreeSet<TenantId> =
            streams.iter().map(|stream| stream.tenant().clone()).collect();
        for tenant in tenants {
            let Some(any) = streams.iter().find(|stream| *stream.tenant() == tenant).cloned()
            else {
                continue;
            };
            match self.list_streams(&tenant).await {
                Ok(names) => streams.extend(names.into_iter().map(|name| any.sibling(name))),
                Err(fault) => {
                    warn!(error = %fault, cause = cause(&fault), %tenant, "could not list streams for retention");
                }
            }
        }
    }

    async fn trim_all(&self, streams: &BTreeSet<StreamKey>) -> Result<()> {
        // Not remembered as used: that would keep them in use for ever.
        let streams: Vec<_> = streams.iter().cloned().map(LocalStream::unused).collect();
        for streams in streams.chunks(AT_ONCE) {
            self.trim_some(streams).await?;
        }
        Ok(())
    }

    /// Trims these streams in one round trip, and those that need more by themselves.
    async fn trim_some(&self, streams: &[LocalStream]) -> Result<()> {
        let Some(first) = streams.first() else { return Ok(()) };
        // A little less than the interval, so that one process alone trims at each tick.
        let every = self.options.trim_every * 3 / 4;
        let mut pipeline = Pipeline::default();
        for local in streams {
            pipeline.push_written(&self.scripts.trim.by_digest(&trim_arguments(local, every)));
        }
        let replies = self.link(&first.keys.stream).call(pipeline).await?;
        for (local, reply) in streams.iter().zip(&replies) {
            // What failed is tried by itself, which also gives a server its script again.
            if matches!(reply.reply().and_then(|reply| read_trim(&reply)), Ok((_, false))) {
                continue;
            }
            match self.trim_on(local).await {
                Err(fault) if is_disconnected(&fault) => return Err(fault),
                // One stream must not keep the others from being trimmed. That a key holds something
                // else is for those to hear who use it.
                Err(fault) if fault.kind() == ErrorKind::Conflict => {}
                Err(fault) => {
                    let stream = &local.key;
                    warn!(error = %fault, cause = cause(&fault), %stream, "could not apply retention to a stream");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn trim_on(&self, local: &LocalStream) -> Result<()> {
        for _ in 0..CALLS {
            if !self.trim_once(local, Duration::ZERO).await?.1 {
                break;
            }
        }
        Ok(())
    }
}

fn trim_arguments(local: &LocalStream, every: Duration) -> Arguments {
    Arguments::with_keys(&local.keys.all()).and("").and(every.as_millis().to_string())
}

/// How many entries were removed, and whether there may be more.
fn read_trim(reply: &Reply) -> Result<(u64, bool)> {
    let [removed, more] = reply.array() else { return Err(malformed("a trim")) };
    let removed = removed.count().ok_or_else(|| malformed("a trim"))?;
    Ok((removed, *more == Reply::Int(1)))
}
