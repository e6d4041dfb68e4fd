//! Group reads: what is due again, then what is new, waiting in the server or for the doorbell.
//!
//! A read is one round trip while nothing is parked: the new entries, and a glance at what else a
//! reader has to know (the next due time, whether the group was lost since, its settings). Only
//! when something is due is that claimed first. A read that waits does so on a connection of its
//! own, so that an event of any service wakes it; a due time that comes meanwhile, or is heard of
//! through the doorbell, ends the waiting by CLIENT UNBLOCK. When all such connections are taken,
//! it looks every 50 ms instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use apix::{
    ConsumerName, Delivery, Error, GroupKey, GroupSettings, MessageId, ReadOptions, Result,
};

use crate::entry::{self, Entry};
use crate::error::{broken, closed, is_broken, malformed};
use crate::link::is_read_only;
use crate::local::{Due, LocalGroup};
use crate::losses::Losses;
use crate::pool::Blocking;
use crate::resp::{Raw, Reply};
use crate::scripts::is_unknown;
use crate::shared::{Shared, group_settings, is_group_lost};
use crate::wire::{Arguments, Pipeline};

/// The longest that one read waits in the server, so that its consumer does not look idle and a
/// doorbell that was missed costs no more.
const LONGEST_BLOCK: Duration = Duration::from_secs(1);
/// How often a read looks that cannot wait in the server.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A group that goes away again and again is given up on.
const TRIES: usize = 10;
/// How soon a read that did not wait yet when it was to be woken is woken again.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(2);
/// How soon after its connection broke a read looks again.
const PAUSE_AFTER_BREAK: Duration = Duration::from_millis(20);

/// One read of one consumer.
struct Read<'a> {
    shared: &'a Shared,
    local: &'a Arc<LocalGroup>,
    consumer: &'a ConsumerName,
    most: usize,
    settings: Arc<GroupSettings>,
}

impl Shared {
    pub(crate) async fn read_group(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        options: ReadOptions,
    ) -> Result<Vec<Delivery>> {
        let local = self.local_group(group);
        let deadline = Instant::now() + options.wait;
        let (mut lost, mut looked_again) = (0, false);
        loop {
            self.check_open()?;
            local.reads();
            // A read that waits for long keeps its stream in mind.
            self.locals.stream(&group.stream);
            let settings = self.settings(&local).await?;
            let most = options.max_events.max(1);
            let mut read = Read { shared: self, local: &local, consumer, most, settings };
            let outcome = match read.look().await {
                Ok(found) if found.is_empty() && Instant::now() < deadline => {
                    // What was parked before the bell was heard is found by looking again.
                    if !self.pubsub.listen(&local).await && !looked_again {
                        looked_again = true;
                        continue;
                    }
                    read.wait(deadline).await
                }
                outcome => outcome,
            };
            match outcome {
                Ok(found) if found.is_empty() && Instant::now() < deadline => {}
                Err(fault) if is_group_lost(&fault) && lost < TRIES => {
                    lost += 1;
                    debug!(group = %local.name, stream = %local.stream, "the consumer group is not there");
                    self.make_group(&local).await?;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Read<'_> {
    /// Everything there is now, without waiting.
    async fn look(&mut self) -> Result<Vec<Delivery>> {
        if self.settings.paused {
            return Ok(Vec::new());
        }
        if self.settings.max_in_flight.is_some() {
            return self.claim(self.most, true).await;
        }
        let mut found = Vec::new();
        if self.local.is_due() {
            found = self.claim(self.most, false).await?;
            if found.len() >= self.most {
                return Ok(found);
            }
        }
        let room = self.most - found.len();
        let mut new = self.read_new(room).await?;
        // Parked by another process, which nobody here has heard of yet.
        if new.len() < room && self.local.is_due() {
            let mut due = self.claim(room - new.len(), false).await?;
            found.append(&mut due);
        }
        found.append(&mut new);
        Ok(found)
    }

    /// New entries, and a glance, in one round trip.
    async fn read_new(&mut self, room: usize) -> Result<Vec<Delivery>> {
        let received_at = Instant::now();
        let due = self.local.due();
        let mut pipeline = Pipeline::default();
        self.push_read(&mut pipeline, room, None);
        pipeline.push_written(&self.shared.scripts.glance.by_digest(&self.glance_arguments()));
        let replies = self.shared.link(self.local.keys.stream()).call(pipeline).await?;
        let [new, glance] = &replies[..] else { return Err(malformed("two replies")) };
        self.receive(new, glance, due, received_at).await
    }

    fn push_read(&self, pipeline: &mut Pipeline, room: usize, block: Option<Duration>) {
        let room = room.to_string();
        let block = block.map(|block| block.as_millis().max(1).to_string());
        let mut parts =
            vec!["XREADGROUP", "GROUP", self.local.name.as_str(), self.consumer.as_str()];
        parts.extend(["COUNT", &room]);
        if let Some(block) = &block {
            parts.extend(["BLOCK", block]);
        }
        parts.extend(["STREAMS", self.local.keys.stream(), ">"]);
        pipeline.push(&parts);
    }

    fn glance_arguments(&self) -> Arguments {
        let keys = &self.local.keys;
        Arguments::with_keys(&[keys.group(), keys.due(), keys.stream()])
            .and(self.local.name.as_str())
    }

    /// Takes in what a glance says; returns the losses of the group that still matter.
    async fn take_glance(&mut self, glance: &Raw, due: Due) -> Result<Losses> {
        let (losses, remade) = if is_unknown(glance) {
            self.glance_again(due).await?
        } else {
            self.read_glance(glance, due)?
        };
        if !remade {
            return Ok(losses);
        }
        warn!(group = %self.local.name, stream = %self.local.stream, "another service made the consumer group anew");
        self.shared.make_group(self.local).await?;
        Ok(self.glance_again(due).await?.0)
    }

    async fn glance_again(&mut self, due: Due) -> Result<(Losses, bool)> {
        let link = self.shared.link(self.local.keys.stream());
        let glance = self.shared.scripts.glance.run(link, &self.glance_arguments()).await?;
        self.read_glance(&glance, due)
    }

    /// The losses, and whether another service made the group anew.
    fn read_glance(&mut self, glance: &Raw, due: Due) -> Result<(Losses, bool)> {
        let reply = glance.reply()?;
        let [wait, marks, settings, remade] = reply.array() else {
            return Err(malformed("a glance"));
        };
        self.local.learn_due(due, wait.int().unwrap_or(-1));
        let settings = Arc::new(group_settings(settings.utf8().unwrap_or_default())?);
        self.local.remember_settings(&settings);
        self.settings = settings;
        Ok((Losses::read(marks.utf8().unwrap_or_default()), *remade == Reply::Int(1)))
    }

    /// Deliveries from the reply of an XREADGROUP and the glance after it.
    async fn receive(
        &mut self,
        new: &Raw,
        glance: &Raw,
        due: Due,
        received_at: Instant,
    ) -> Result<Vec<Delivery>> {
        let mut cursor = new.cursor()?;
        let losses = self.take_glance(glance, due).await?;
        let entries = self.new_entries(&mut cursor)?;
        self.deliver_new(entries, &losses, received_at).await
    }

    fn new_entries(&self, cursor: &mut crate::resp::Cursor<'_>) -> Result<Vec<Entry>> {
        if cursor.array()?.is_none() {
            return Ok(Vec::new());
        }
        cursor.array()?;
        cursor.text()?;
        entry::read_entries(cursor, self.local.stream.tenant())
    }

    async fn deliver_new(
        &self,
        entries: Vec<Entry>,
        losses: &Losses,
        received_at: Instant,
    ) -> Result<Vec<Delivery>> {
        let mut counts = vec![1; entries.len()];
        if entries.iter().any(|(id, _)| losses.may_hide(*id)) {
            counts = self.recount(&entries).await?;
        }
        // The glance came after the read: the lease is no older than the delivery.
        self.deliver(entries, &counts, self.settings.lease(), received_at).await
    }

    async fn recount(&self, entries: &[Entry]) -> Result<Vec<u32>> {
        let mut arguments = Shared::group_arguments(self.local, "").and(self.consumer.as_str());
        for (id, _) in entries {
            arguments.push(crate::wire::id_text(*id));
        }
        let script = &self.shared.scripts.recount;
        let counts = self.shared.group_script(script, self.local, &arguments).await?.reply()?;
        counts.array().iter().map(count).collect()
    }

    /// Claims what is due; with `and_new` goes on with new entries in the same step, which a bound
    /// on deliveries needs.
    async fn claim(&mut self, most: usize, and_new: bool) -> Result<Vec<Delivery>> {
        let received_at = Instant::now();
        let due = self.local.due();
        let arguments = Shared::group_arguments(self.local, "")
            .and(self.consumer.as_str())
            .and(most.to_string())
            .and(if and_new { "1" } else { "0" });
        let script = &self.shared.scripts.claim;
        let raw = self.shared.group_script(script, self.local, &arguments).await?;
        let mut cursor = raw.cursor()?;
        cursor.array()?;
        self.local.learn_due(due, cursor.int()?);
        let lease = Duration::from_millis(u64::try_from(cursor.int()?).unwrap_or_default());
        let entries = entry::read_entries(&mut cursor, self.local.stream.tenant())?;
        let counts = cursor.reply()?;
        let counts: Vec<u32> = counts.array().iter().map(count).collect::<Result<_>>()?;
        let new = self.new_entries(&mut cursor)?;
        let mut found = self.deliver(entries, &counts, lease, received_at).await?;
        if and_new {
            let losses = self.glance_again(self.local.due()).await?.0;
            found.append(&mut self.deliver_new(new, &losses, received_at).await?);
        }
        Ok(found)
    }

    /// Makes deliveries of entries; what is no event goes to the dead letters.
    async fn deliver(
        &self,
        entries: Vec<Entry>,
        counts: &[u32],
        lease: Duration,
        received_at: Instant,
    ) -> Result<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(entries.len());
        let mut no_events = Vec::new();
        for ((id, event), &delivery_count) in entries.into_iter().zip(counts) {
            match event {
                _ if delivery_count == 0 => {}
                Ok(event) => deliveries.push(Delivery {
                    event,
                    delivery_count,
                    consumer: self.consumer.clone(),
                    lease,
                    received_at,
                }),
                Err(reason) => no_events.push((id, reason)),
            }
        }
        if !no_events.is_empty() {
            self.bury(&no_events).await?;
        }
        Ok(deliveries)
    }

    async fn bury(&self, no_events: &[(MessageId, &'static str)]) -> Result<()> {
        let mut arguments = Shared::group_arguments(self.local, "").and(self.consumer.as_str());
        for (id, reason) in no_events {
            arguments.push(crate::wire::id_text(*id));
            arguments.push(reason);
        }
        let count = no_events.len();
        warn!(group = %self.local.name, stream = %self.local.stream, count, "entries that are no events went to the dead letters");
        self.shared.group_script(&self.shared.scripts.bury, self.local, &arguments).await?.ok()
    }

    /// Waits until there may be something, at most until `deadline`.
    async fn wait(&mut self, deadline: Instant) -> Result<Vec<Delivery>> {
        // A lease counts from before the server was asked, so a wait must not eat it up.
        let longest = LONGEST_BLOCK.min(self.settings.lease() / 4);
        let until = deadline.min(Instant::now() + longest);
        let blocks = !self.settings.paused && self.settings.max_in_flight.is_none();
        if blocks {
            match self.shared.pool.take().await {
                Ok(Some(connection)) => {
                    return match self.block(connection, until).await {
                        // What it may have been handed is left to its lease; what is wrong with
                        // the server shows in the next look.
                        Err(fault) if is_broken(&fault) => {
                            tokio::time::sleep(PAUSE_AFTER_BREAK).await;
                            Ok(Vec::new())
                        }
                        outcome => outcome,
                    };
                }
                Ok(None) => {}
                Err(fault) => warn!(error = %fault, "no connection to wait on"),
            }
        }
        self.poll(until.min(Instant::now() + LOOK_EVERY)).await;
        Ok(Vec::new())
    }

    async fn poll(&self, until: Instant) {
        let stream = self.shared.locals.stream(&self.local.stream);
        let mut due = self.local.watch_due();
        // What is due already and was not handed out waits for something else than its time.
        let due_at = due.borrow_and_update().at.filter(|at| *at > Instant::now());
        let wake_at = due_at.map_or(until, |at| at.min(until));
        tokio::select! {
            () = tokio::time::sleep_until(wake_at.into()) => {}
            () = stream.wait_for_new() => {}
            _ = due.changed() => {}
            () = self.shared.refusing.cancelled() => {}
        }
    }

    /// Waits in the server. A connection that is not given back is closed.
    async fn block(&mut self, mut at: Blocking, until: Instant) -> Result<Vec<Delivery>> {
        let received_at = Instant::now();
        let mut due = self.local.watch_due();
        let known = *due.borrow_and_update();
        if known.at.is_some_and(|at| at <= received_at) {
            at.give_back();
            return Ok(Vec::new());
        }
        let block = until.saturating_duration_since(received_at);
        let mut pipeline = Pipeline::default();
        self.push_read(&mut pipeline, self.most, Some(block));
        pipeline.push_written(&self.shared.scripts.glance.by_digest(&self.glance_arguments()));
        at.connection.send(pipeline).await?;
        let limit = until + self.shared.options.request_timeout;
        let (mut may_unblock, mut not_before) = (true, received_at);
        let new = loop {
            let due_at = due.borrow_and_update().at.filter(|_| may_unblock);
            let wake_at = due_at.map_or(limit, |at| at.max(not_before)).min(limit);
            tokio::select! {
                new = at.connection.receive() => break new?,
                _ = due.changed() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {
                    if Instant::now() >= limit {
                        return Err(broken("no answer in time"));
                    }
                    may_unblock = self.unblock(&at).await?;
                    not_before = Instant::now() + UNBLOCK_AGAIN;
                }
                () = self.shared.refusing.cancelled() => return Err(closed()),
            }
        };
        let glance = tokio::time::timeout_at(limit.into(), at.connection.receive())
            .await
            .map_err(|_| broken("no answer in time"))??;
        if !is_read_only(&new) {
            at.give_back();
        }
        self.receive(&new, &glance, known, received_at).await
    }

    /// Ends the waiting. Where it has not begun yet this does nothing, so it is done again until
    /// the reply has come. Returns whether the server allows it.
    async fn unblock(&self, at: &Blocking) -> Result<bool> {
        let link = self.shared.link(self.local.keys.stream());
        let done = link.command(&["CLIENT", "UNBLOCK", &at.client_id.to_string()]).await?;
        Ok(done.error().is_none())
    }
}

fn count(reply: &Reply) -> Result<u32> {
    reply
        .int()
        .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
        .ok_or_else(|| malformed("a delivery count was expected"))
}

/// There is no such group.
pub(crate) fn no_such_group(local: &LocalGroup) -> Error {
    Error::not_found(format!(
        "there is no group {:?} on stream {:?}",
        local.name.as_str(),
        local.stream.stream().as_str()
    ))
}
