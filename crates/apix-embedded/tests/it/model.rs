//! The engine as simply as it can be said: lists and maps, no files, no threads.

use std::collections::BTreeMap;

use apix::dead_letter::LEASE_EXPIRED;
use apix::{ErrorKind, GroupSettings, MessageId, StreamSettings};

pub(crate) type Outcome<T> = Result<T, ErrorKind>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelEvent {
    pub(crate) id: MessageId,
    pub(crate) n: u64,
    pub(crate) bytes: u64,
    pub(crate) channel: Option<usize>,
    pub(crate) previous: Option<MessageId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Out { until: u64 },
    Expired { since: u64 },
    Parked { until: u64, due_unix: u64, delay: u64 },
    Due { since: u64 },
}

pub(crate) type Attempts = Vec<(String, String)>;

#[derive(Clone, Debug)]
pub(crate) struct ModelHeld {
    pub(crate) event: ModelEvent,
    pub(crate) count: u32,
    pub(crate) consumer: String,
    pub(crate) state: State,
    pub(crate) attempts: Attempts,
    pub(crate) copied: bool,
}

impl ModelHeld {
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Out { .. } | State::Expired { .. })
    }

    fn failed(&mut self, reason: &str) {
        self.attempts.push((self.consumer.clone(), reason.to_owned()));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ModelDead {
    pub(crate) event: ModelEvent,
    pub(crate) reason: String,
    pub(crate) attempts: Attempts,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ModelGroup {
    pub(crate) settings: GroupSettings,
    pub(crate) cursor: Option<MessageId>,
    pub(crate) held: BTreeMap<MessageId, ModelHeld>,
    pub(crate) dead: BTreeMap<MessageId, ModelDead>,
    pub(crate) lost: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ModelStream {
    pub(crate) events: Vec<ModelEvent>,
    pub(crate) last_id: Option<MessageId>,
    pub(crate) trimmed_to: Option<MessageId>,
    pub(crate) hard_dropped: u64,
    pub(crate) settings: StreamSettings,
    pub(crate) keys: Vec<(String, u64, MessageId)>,
    pub(crate) groups: BTreeMap<usize, ModelGroup>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) elapsed: u64,
    pub(crate) unix: u64,
    pub(crate) streams: BTreeMap<usize, ModelStream>,
    /// By channel and stream, the last event.
    pub(crate) feeds: BTreeMap<(usize, usize), Option<MessageId>>,
}

/// Which delivery a receipt names: the event, and perhaps its holder and count.
pub(crate) type Named = (MessageId, Option<(String, u32)>);

impl ModelGroup {
    fn cursor(&self) -> MessageId {
        self.cursor.unwrap_or(MessageId::MIN)
    }

    fn holds(&self, (id, holder): &Named) -> bool {
        self.held.get(id).is_some_and(|held| {
            held.is_pending()
                && holder
                    .as_ref()
                    .is_none_or(|(name, count)| (name, *count) == (&held.consumer, held.count))
        })
    }

    fn bury(&mut self, id: MessageId, reason: &str) {
        if let Some(held) = self.held.remove(&id) {
            let ModelHeld { event, attempts, .. } = held;
            self.dead.insert(id, ModelDead { event, reason: reason.to_owned(), attempts });
        }
    }

    fn pass_time(&mut self, now: u64) {
        let mut expired = Vec::new();
        for (id, held) in &mut self.held {
            match held.state {
                State::Out { until } if until <= now => {
                    held.state = State::Expired { since: until };
                    if held.count >= self.settings.max_deliveries {
                        held.failed(LEASE_EXPIRED);
                        expired.push(*id);
                    }
                }
                State::Parked { until, .. } if until <= now => {
                    held.state = State::Due { since: until };
                }
                _ => {}
            }
        }
        expired.into_iter().for_each(|id| self.bury(id, LEASE_EXPIRED));
    }

    fn in_flight(&self) -> u64 {
        self.held.values().filter(|held| matches!(held.state, State::Out { .. })).count() as u64
    }

    fn next_ready(&self) -> Option<MessageId> {
        let since = |held: &ModelHeld| match held.state {
            State::Expired { since } | State::Due { since } => Some(since),
            _ => None,
        };
        self.held.iter().filter_map(|(id, held)| Some((since(held)?, *id))).min().map(|(_, id)| id)
    }
}

impl Model {
    /// Lets time do what it does before every call.
    pub(crate) fn pass_time(&mut self) {
        for stream in self.streams.values_mut() {
            stream.groups.values_mut().for_each(|group| group.pass_time(self.elapsed));
        }
    }

    pub(crate) fn group(&mut self, stream: usize, group: usize) -> Outcome<&mut ModelGroup> {
        let stream = self.streams.get_mut(&stream).ok_or(ErrorKind::NotFound)?;
        stream.groups.get_mut(&group).ok_or(ErrorKind::NotFound)
    }

    pub(crate) fn make_group(&mut self, stream: usize, group: usize) -> &mut ModelGroup {
        self.streams.entry(stream).or_default().groups.entry(group).or_default()
    }

    /// Appends `(n, bytes, key)`. Returns ids, each with whether it was a repeat.
    pub(crate) fn append(
        &mut self,
        no: usize,
        events: &[(u64, u64, Option<String>)],
        channel: Option<usize>,
    ) -> Outcome<Vec<(MessageId, bool)>> {
        let empty = ModelStream::default();
        let stream = self.streams.get(&no).unwrap_or(&empty);
        let mut bodies: BTreeMap<&str, u64> =
            stream.keys.iter().map(|(key, n, _)| (key.as_str(), *n)).collect();
        for (n, _, key) in events {
            if let Some(key) = key
                && *bodies.entry(key).or_insert(*n) != *n
            {
                return Err(ErrorKind::IdempotencyConflict);
            }
        }
        let mut first_ids: BTreeMap<String, MessageId> =
            stream.keys.iter().map(|(key, _, id)| (key.clone(), *id)).collect();
        let stream = self.streams.entry(no).or_default();
        let mut ids = Vec::new();
        for (n, bytes, key) in events {
            if let Some(id) = key.as_ref().and_then(|key| first_ids.get(key)) {
                ids.push((*id, true));
                continue;
            }
            let last = stream.last_id.unwrap_or(MessageId::MIN);
            let id = MessageId::following(last, self.unix);
            stream.last_id = Some(id);
            let tip = channel.map(|channel| self.feeds.entry((channel, no)).or_default());
            let previous = tip.and_then(|tip| tip.replace(id));
            stream.events.push(ModelEvent { id, n: *n, bytes: *bytes, channel, previous });
            if let Some(key) = key {
                first_ids.insert(key.clone(), id);
                stream.keys.push((key.clone(), *n, id));
                stream.forget_keys();
            }
            ids.push((id, false));
        }
        Ok(ids)
    }

    /// Hands out events: id, n and count.
    pub(crate) fn read(
        &mut self,
        no: usize,
        group: usize,
        consumer: &str,
        max: usize,
    ) -> Vec<(MessageId, u64, u32)> {
        let now = self.elapsed;
        self.make_group(no, group);
        let Some(stream) = self.streams.get_mut(&no) else { return Vec::new() };
        let Some(group) = stream.groups.get_mut(&group) else { return Vec::new() };
        let mut handed = Vec::new();
        if group.settings.paused {
            return handed;
        }
        let room = group.settings.max_in_flight.unwrap_or(u64::MAX)
            - group.in_flight().min(group.settings.max_in_flight.unwrap_or(u64::MAX));
        let max = max.min(usize::try_from(room).unwrap_or(usize::MAX));
        let until = now + group.settings.lease_ms;
        while handed.len() < max {
            let Some(id) = group.next_ready() else { break };
            let most = group.settings.max_deliveries;
            let held = group.held.get_mut(&id).unwrap();
            if held.count >= most {
                let reason = held.attempts.last().map_or(LEASE_EXPIRED.to_owned(), |a| a.1.clone());
                group.bury(id, &reason);
                continue;
            }
            if matches!(held.state, State::Expired { .. }) {
                held.failed(LEASE_EXPIRED);
            }
            held.count += 1;
            held.consumer = consumer.to_owned();
            held.state = State::Out { until };
            handed.push((id, held.event.n, held.count));
        }
        for event in &stream.events {
            if handed.len() >= max {
                break;
            }
            if event.id <= group.cursor() {
                continue;
            }
            group.cursor = Some(event.id);
            if group.held.contains_key(&event.id) {
                continue;
            }
            handed.push((event.id, event.n, 1));
            let held = ModelHeld {
                event: event.clone(),
                count: 1,
                consumer: consumer.to_owned(),
                state: State::Out { until },
                attempts: Vec::new(),
                copied: false,
            };
            group.held.insert(event.id, held);
        }
        handed
    }

    /// How many were acknowledged, and which were lost to their holder.
    pub(crate) fn acknowledge(
        &mut self,
        no: usize,
        group: usize,
        named: &Named,
    ) -> (u64, Vec<MessageId>) {
        let Ok(group) = self.group(no, group) else { return (0, Vec::new()) };
        let anyone = named.1.is_none() && group.held.contains_key(&named.0);
        if anyone || group.holds(named) {
            group.held.remove(&named.0);
            (1, Vec::new())
        } else if group.held.contains_key(&named.0) {
            (0, vec![named.0])
        } else {
            (0, Vec::new())
        }
    }

    /// Rejects a delivery. Whether it is a dead letter.
    pub(crate) fn reject(
        &mut self,
        no: usize,
        group: usize,
        named: &Named,
        after: Option<u64>,
        reason: &str,
    ) -> Outcome<bool> {
        let (elapsed, unix) = (self.elapsed, self.unix);
        let group = self.group(no, group).map_err(|_| ErrorKind::LeaseLost)?;
        if !group.holds(named) {
            return Err(ErrorKind::LeaseLost);
        }
        let most = group.settings.max_deliveries;
        let held = group.held.get_mut(&named.0).unwrap();
        held.failed(reason);
        match after {
            Some(delay) if held.count < most => {
                held.copied |= delay > 60_000;
                let (until, due_unix) = (elapsed + delay, unix + delay);
                held.state = State::Parked { until, due_unix, delay };
                Ok(false)
            }
            _ => {
                group.bury(named.0, reason);
                Ok(true)
            }
        }
    }

    pub(crate) fn extend(
        &mut self,
        no: usize,
        group: usize,
        named: &Named,
        lease: u64,
    ) -> Outcome<()> {
        let until = self.elapsed + lease;
        let group = self.group(no, group).map_err(|_| ErrorKind::LeaseLost)?;
        if !group.holds(named) {
            return Err(ErrorKind::LeaseLost);
        }
        group.held.get_mut(&named.0).unwrap().state = State::Out { until };
        Ok(())
    }

    pub(crate) fn configure_group(&mut self, no: usize, group: usize, settings: GroupSettings) {
        let until = self.elapsed + settings.lease_ms;
        let group = self.make_group(no, group);
        if settings.lease_ms < group.settings.lease_ms {
            for held in group.held.values_mut() {
                if let State::Out { until: before } = &mut held.state {
                    *before = until.min(*before);
                }
            }
        }
        group.settings = settings;
    }

    pub(crate) fn retry_dead(
        &mut self,
        no: usize,
        group: usize,
        id: Option<MessageId>,
    ) -> Outcome<u64> {
        let since = self.elapsed;
        let group = self.group(no, group)?;
        let chosen: Vec<_> =
            group.dead.keys().copied().filter(|one| id.is_none_or(|id| id == *one)).collect();
        for id in &chosen {
            let dead = group.dead.remove(id).unwrap();
            group.held.entry(*id).or_insert(ModelHeld {
                event: dead.event,
                count: 0,
                consumer: String::new(),
                state: State::Due { since },
                attempts: dead.attempts,
                copied: true,
            });
        }
        Ok(chosen.len() as u64)
    }

    pub(crate) fn configure_stream(&mut self, no: usize, settings: StreamSettings) {
        let stream = self.streams.entry(no).or_default();
        stream.settings = settings;
        stream.forget_keys();
    }

    pub(crate) fn trim(&mut self, no: usize) -> Outcome<u64> {
        self.streams.get_mut(&no).map(ModelStream::trim).ok_or(ErrorKind::NotFound)
    }

    pub(crate) fn delete_stream(&mut self, no: usize) -> Outcome<()> {
        self.streams.remove(&no).ok_or(ErrorKind::NotFound)?;
        for ((_, stream), tip) in &mut self.feeds {
            if *stream == no {
                *tip = None;
            }
        }
        Ok(())
    }

    /// What a reopening does: who had a delivery has its whole lease again.
    pub(crate) fn reopen(&mut self) {
        for group in self.streams.values_mut().flat_map(|stream| stream.groups.values_mut()) {
            for held in group.held.values_mut() {
                held.state = match held.state {
                    State::Out { .. } | State::Expired { .. } => {
                        State::Out { until: self.elapsed + group.settings.lease_ms }
                    }
                    State::Parked { due_unix, delay, .. } => {
                        let left = due_unix.saturating_sub(self.unix).min(delay);
                        State::Parked { until: self.elapsed + left, due_unix, delay }
                    }
                    State::Due { .. } => {
                        State::Parked { until: self.elapsed, due_unix: 0, delay: 0 }
                    }
                };
            }
        }
    }
}

impl ModelStream {
    fn forget_keys(&mut self) {
        let most = usize::try_from(self.settings.idempotency.max_keys).unwrap();
        let excess = self.keys.len().saturating_sub(most);
        self.keys.drain(..excess);
    }

    fn bytes(&self) -> u64 {
        self.events.iter().map(|event| event.bytes).sum()
    }

    fn trim(&mut self) -> u64 {
        self.forget_keys();
        let pin = self.groups.values().flat_map(|group| {
            let held = group.held.iter().filter(|(_, held)| !held.copied).map(|(id, _)| *id);
            let unread = self.events.iter().map(|event| event.id).find(|id| *id > group.cursor());
            held.min().into_iter().chain(unread)
        });
        let pin = pin.min();
        let mut removed = 0;
        while let Some(oldest) = self.events.first() {
            let id = oldest.id;
            let kept = pin.is_some_and(|pin| id >= pin);
            let retention = &self.settings.retention;
            let over = retention.max_len.is_some_and(|most| self.events.len() as u64 > most);
            let hard = retention.hard_max_bytes > 0 && self.bytes() > retention.hard_max_bytes;
            if !(over && !kept || hard) {
                break;
            }
            self.events.remove(0);
            self.trimmed_to = Some(id);
            removed += 1;
            if kept {
                self.hard_dropped += 1;
                self.groups.values_mut().for_each(|group| group.lose(id));
            }
        }
        removed
    }
}

impl ModelGroup {
    fn lose(&mut self, id: MessageId) {
        match self.held.get(&id).map(|held| held.copied) {
            Some(true) => {}
            Some(false) => {
                self.held.remove(&id);
                self.lost += 1;
            }
            None => self.lost += u64::from(id > self.cursor()),
        }
        self.cursor = Some(self.cursor().max(id));
    }
}
