//! Ending leases that ran out, for the groups that this process reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use apix::{Error, Result};

use crate::error::{cause, is_disconnected, malformed};
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
/// The most leases that one call of the script ends; it looks at ten times as many.
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
            let arguments = self.sweep_arguments(group, &Swept::default());
            pipeline.push_written(&self.scripts.sweep.by_digest(&arguments));
        }
        let replies = self.link(first.keys.stream()).call(pipeline).await?;
        for ((group, reply), before) in groups.iter().zip(&replies).zip(known) {
            // What failed is tried by itself, which also gives a server its script again.
            let swept = reply.reply().and_then(|reply| Swept::read(&reply));
            let swept = match swept {
                Ok(swept) if swept.is_lost => swept,
                Ok(swept) => {
                    group.learn_due(before, swept.due_in);
                    if swept.resume.is_none() {
                        group.sweeps(true);
                        continue;
                    }
                    swept
                }
                Err(_) => Swept::default(),
            };
            match self.sweep(group, swept).await {
                Err(fault) if is_disconnected(&fault) => return Err(fault),
                Err(fault) if !is_group_lost(&fault) => could_not_sweep(group, &fault),
                _ => {
                    group.sweeps(true);
                }
            }
        }
        Ok(())
    }

    fn sweep_arguments(&self, group: &LocalGroup, after: &Swept) -> Arguments {
        // A little less than the interval, so that one process alone sweeps at each tick.
        let every = self.options.sweep_every.as_millis() * 3 / 4;
        let (consumer, id) = after.resume.clone().unwrap_or_default();
        Self::group_arguments(group, "")
            .and(every.to_string())
            .and(PAGE.to_string())
            .and(consumer)
            .and(id)
    }

    /// Goes on after `swept` until all was looked at.
    async fn sweep(&self, group: &LocalGroup, mut swept: Swept) -> Result<()> {
        loop {
            if swept.is_lost {
                debug!(group = %group.name, stream = %group.stream, "the consumer group was lost");
                return self.make_group(group).await;
            }
            let before = group.due();
            let arguments = self.sweep_arguments(group, &swept);
            let reply = self.group_script(&self.scripts.sweep, group, &arguments).await?.reply()?;
            swept = Swept::read(&reply)?;
            if swept.is_lost {
                continue;
            }
            group.learn_due(before, swept.due_in);
            if swept.ended > 0 {
                let ended = swept.ended;
                debug!(ended, group = %group.name, stream = %group.stream, "leases ended");
            }
            if swept.resume.is_none() {
                return Ok(());
            }
        }
    }
}

/// One group, such as one whose keys hold something else, must not keep the others from being swept.
/// It is told once, not at each sweep.
fn could_not_sweep(group: &LocalGroup, fault: &Error) {
    if group.sweeps(false) {
        warn!(error = %fault, cause = cause(fault), group = %group.name, stream = %group.stream, "could not look for ended leases of a group");
    }
}

/// What one call of the script did.
#[derive(Default)]
struct Swept {
    ended: i64,
    is_lost: bool,
    /// Milliseconds to the next due time; negative if there is none.
    due_in: i64,
    /// The consumer and id to go on after, as far as not all was looked at.
    resume: Option<(Bytes, Bytes)>,
}

impl Swept {
    fn read(reply: &Reply) -> Result<Self> {
        let [ended, due_in, consumer, id] = reply.array() else { return Err(malformed("a sweep")) };
        let ended = ended.int().ok_or_else(|| malformed("a sweep"))?;
        let resume = consumer.text().cloned().zip(id.text().cloned());
        Ok(Self {
            ended,
            is_lost: ended < 0,
            due_in: due_in.int().unwrap_or(-1),
            resume: resume.filter(|(consumer, _)| !consumer.is_empty()),
        })
    }
}
