//! Ending leases that ran out, for the groups that this process reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use apix::Result;

use crate::error::{cause, malformed};
use crate::local::LocalGroup;
use crate::shared::{Shared, is_group_lost};

/// A group is looked after for so long after its last read here; its leases may end later than
/// that, but then another process reads it, or nobody does.
const LOOKED_AFTER: Duration = Duration::from_secs(120);
/// What is remembered of a stream that was not used for so long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(900);
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
        for group in &groups {
            match self.sweep(group).await {
                Err(fault) if !is_group_lost(&fault) => {
                    warn!(error = %fault, cause = cause(&fault), group = %group.name, stream = %group.stream, "could not look for ended leases");
                    return;
                }
                _ => {}
            }
        }
    }

    async fn sweep(&self, group: &LocalGroup) -> Result<()> {
        // A little less than the interval, so that one process alone sweeps at each tick.
        let every = self.options.sweep_every.as_millis() * 3 / 4;
        loop {
            let before = group.due();
            let arguments =
                Self::group_arguments(group, "").and(every.to_string()).and(PAGE.to_string());
            let reply = self.group_script(&self.scripts.sweep, group, &arguments).await?.reply()?;
            let [ended, due_in] = reply.array() else { return Err(malformed("a sweep")) };
            let ended = ended.int().ok_or_else(|| malformed("a sweep"))?;
            if ended < 0 {
                debug!(group = %group.name, stream = %group.stream, "the consumer group was lost");
                return self.make_group(group).await;
            }
            group.learn_due(before, due_in.int().unwrap_or(-1));
            if ended > 0 {
                debug!(ended, group = %group.name, stream = %group.stream, "leases ended");
            }
            if ended < PAGE {
                return Ok(());
            }
        }
    }
}
