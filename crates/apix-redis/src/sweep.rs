//! Ending leases that ran out, for the groups that this process reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use apix::{ErrorKind, Result};

use crate::error::{cause, malformed};
use crate::local::LocalGroup;
use crate::resp::Reply;
use crate::shared::{Shared, is_group_lost};
use crate::wire::{Arguments, Pipeline};

/// A group is looked after for so long after its last read here; its leases may end later than
/// that, but then another process reads it, or nobody does.
const LOOKED_AFTER: Duration = Duration::from_secs(120);
/// What is remembered of a stream that was not used for so long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(900);
/// Groups that are swept in one round trip.
const AT_ONCE: usize = 64;
/// The most leases that one call of the script ends.
const PAGE: i64 = 200;

impl Shared {
    /// Sweeps at intervals until the broker is closed.
    pub(crate) async fn keep_sweeping(self: Arc<Self>) {
        let mut interval = tokio::time::interval(self.options.sweep_every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.closing.cancelled() => return,
            }
            self.sweep_all().await;
        }
    }

    async fn sweep_all(&self) {
        let groups: Vec<_> = self
            .locals
            .recent(REMEMBERED)
            .iter()
            .flat_map(|stream| stream.groups())
            .filter(|group| group.read_within(LOOKED_AFTER))
            .collect();
        for groups in groups.chunks(AT_ONCE) {
            if let Err(fault) = self.sweep_some(groups).await {
                warn!(error = %fault, cause = cause(&fault), "could not look for ended leases");
                return;
            }
        }
    }

    /// Sweeps these groups in one round trip, and those that need more by themselves.
    async fn sweep_some(&self, groups: &[Arc<LocalGroup>]) -> Result<()> {
        let Some(first) = groups.first() else { return Ok(()) };
        let known: Vec<_> = groups.iter().map(|group| group.due()).collect();
        let mut pipeline = Pipeline::default();
        for group in groups {
            pipeline.push_written(&self.scripts.sweep.by_digest(&self.sweep_arguments(group)));
        }
        let replies = self.link(first.keys.stream()).call(pipeline).await?;
        for ((group, reply), before) in groups.iter().zip(&replies).zip(known) {
            let done = match reply.reply() {
                Ok(swept) => read_sweep(&swept).inspect(|(_, due_in)| {
                    group.learn_due(before, *due_in);
                }),
                Err(_) => Ok((PAGE, -1)),
            };
            if matches!(done, Ok((0..PAGE, _))) {
                continue;
            }
            match self.sweep(group).await {
                Ok(()) => {}
                // A key that holds something else must not keep the others from being swept.
                Err(fault) if is_group_lost(&fault) || fault.kind() == ErrorKind::Conflict => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn sweep_arguments(&self, group: &LocalGroup) -> Arguments {
        // A little less than the interval, so that one process alone sweeps at each tick.
        let every = self.options.sweep_every.as_millis() * 3 / 4;
        Self::group_arguments(group, "").and(every.to_string()).and(PAGE.to_string())
    }

    async fn sweep(&self, group: &LocalGroup) -> Result<()> {
        // A little less than the interval, so that one process alone sweeps at each tick.
        let every = self.options.sweep_every.as_millis() * 3 / 4;
        loop {
            let before = group.due();
            let arguments =
                Self::group_arguments(group, "").and(every.to_string()).and(PAGE.to_string());
            let reply = self.group_script(&self.scripts.sweep, group, &arguments).await?.reply()?;
            let (ended, due_in) = read_sweep(&reply)?;
            if ended < 0 {
                debug!(group = %group.name, stream = %group.stream, "the consumer group was lost");
                return self.make_group(group).await;
            }
            group.learn_due(before, due_in);
            if ended > 0 {
                debug!(ended, group = %group.name, stream = %group.stream, "leases ended");
            }
            if ended < PAGE {
                return Ok(());
            }
        }
    }
}

/// How many leases were ended (-1: the group is lost), and when the next event is due.
fn read_sweep(reply: &Reply) -> Result<(i64, i64)> {
    let [ended, due_in] = reply.array() else { return Err(malformed("a sweep")) };
    let ended = ended.int().ok_or_else(|| malformed("a sweep"))?;
    Ok((ended, due_in.int().unwrap_or(-1)))
}
