//! Retention, at intervals and on request. The script that decides is bounded a call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tracing::warn;

use apix::{Result, StreamKey, TenantId};

use crate::error::{cause, malformed};
use crate::local::LocalStream;
use crate::resp::Reply;
use crate::shared::Shared;
use crate::streams::no_such_stream;
use crate::wire::Arguments;

/// Streams that were used here within this time are trimmed at each interval.
const IN_USE: Duration = Duration::from_secs(600);
/// All other streams of the tenants that are known here, at this interval.
const OTHERS_EVERY: Duration = Duration::from_secs(600);
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
        let arguments =
            Arguments::with_keys(&local.keys.all()).and("").and(every.as_millis().to_string());
        let link = self.link(&local.keys.stream);
        let reply = self.scripts.trim.reply(link, &arguments).await?;
        let [removed, more] = reply.array() else { return Err(malformed("a trim")) };
        let removed = removed.count().ok_or_else(|| malformed("a trim"))?;
        Ok((removed, *more == Reply::Int(1)))
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
            let outcome = if Instant::now() >= others_at {
                others_at = Instant::now() + OTHERS_EVERY;
                self.add_others(&mut streams).await
            } else {
                Ok(())
            };
            let outcome = match outcome {
                Ok(()) => self.trim_all(&streams).await,
                failed => failed,
            };
            if let Err(fault) = outcome {
                warn!(error = %fault, cause = cause(&fault), "could not apply retention");
            }
        }
    }

    async fn add_others(&self, streams: &mut BTreeSet<StreamKey>) -> Result<()> {
        let tenants: BTreeSet<TenantId> =
            streams.iter().map(|stream| stream.tenant().clone()).collect();
        for tenant in tenants {
            let Some(any) = streams.iter().find(|stream| *stream.tenant() == tenant).cloned()
            else {
                continue;
            };
            for name in self.list_streams(&tenant).await? {
                streams.insert(any.sibling(name));
            }
        }
        Ok(())
    }

    async fn trim_all(&self, streams: &BTreeSet<StreamKey>) -> Result<()> {
        // A little less than the interval, so that one process alone trims at each tick.
        let every = self.options.trim_every * 3 / 4;
        for stream in streams {
            // Not remembered as used: that would keep it in use for ever.
            let local = LocalStream::unused(stream.clone());
            let mut every = every;
            for _ in 0..CALLS {
                let (_, more) = self.trim_once(&local, every).await?;
                if !more {
                    break;
                }
                every = Duration::ZERO;
            }
        }
        Ok(())
    }
}
