//! What a program under load was told, and whether a folder still keeps all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use apix::{Broker, GroupSettings, MessageId, RangeQuery};
use apix_embedded::EmbeddedBroker;

use crate::scene::{consumer, group, stream, waiting};

/// What may be gone by what happened: a power cut takes what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Kill,
    PowerCut,
}

/// Everything that was returned so far, over all lives of the program.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By stream: ids with the number that is the event's payload.
    pub(crate) returned: BTreeMap<String, BTreeMap<MessageId, u64>>,
    /// Numbers whose append was refused with nothing stored.
    pub(crate) refused: HashSet<u64>,
    /// The highest delivery count that a reader was told.
    counts: HashMap<(String, MessageId), u32>,
    /// Events that were perhaps rejected for longer than a test waits.
    late: HashSet<(String, MessageId)>,
    /// Acknowledgements that were sent, and those that were confirmed.
    sent: HashSet<(String, MessageId)>,
    confirmed: HashSet<(String, MessageId)>,
    pub(crate) lines: usize,
}

impl Ledger {
    /// Takes what a program printed: `A stream id n`, `F n`, `D stream id count`, `L stream id`,
    /// `S stream id`, `K stream id`.
    pub(crate) fn read(&mut self, printed: &str) {
        // A line that the kill cut off says nothing.
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let key = |words: &[&str]| (words[1].to_owned(), words[2].parse().unwrap());
            match words[..] {
                ["A", stream, id, n] => {
                    let (id, n) = (id.parse().unwrap(), n.parse().unwrap());
                    let before = self.returned.entry(stream.to_owned()).or_default().insert(id, n);
                    assert_eq!(before, None, "the id {id} of {stream} was returned twice");
                }
                ["F", n] => {
                    self.refused.insert(n.parse().unwrap());
                }
                ["D", _, _, count] => {
                    let count: u32 = count.parse().unwrap();
                    let known = self.counts.entry(key(&words)).or_default();
                    *known = count.max(*known);
                }
                ["L", _, _] => {
                    self.late.insert(key(&words));
                }
                ["S", _, _] => {
                    self.sent.insert(key(&words));
                }
                ["K", _, _] => {
                    self.confirmed.insert(key(&words));
                }
                _ => continue,
            }
            self.lines += 1;
        }
    }

    /// How many of the returned events the broker does not have.
    pub(crate) async fn missing(&self, broker: &EmbeddedBroker) -> usize {
        let mut missing = 0;
        for (name, returned) in &self.returned {
            let kept = match broker.stream_stats(&stream(name)).await {
                Ok(_) => kept(broker, name).await,
                Err(_) => BTreeMap::new(),
            };
            missing += returned.keys().filter(|id| !kept.contains_key(id)).count();
        }
        missing
    }

    /// That the broker has all of it: nothing is missing, nothing is twice, everything that was
    /// not acknowledged comes again, and no count is too low.
    pub(crate) async fn check(&mut self, broker: &EmbeddedBroker, after: After) {
        let streams: Vec<String> = self.returned.keys().cloned().collect();
        for name in streams {
            let kept = kept(broker, &name).await;
            let numbers: HashSet<u64> = kept.values().copied().collect();
            assert_eq!(numbers.len(), kept.len(), "an event of {name} is there twice");
            for (id, n) in &self.returned[&name] {
                assert_eq!(kept.get(id), Some(n), "{id} of {name} was returned; after {after:?}");
            }
            assert!(self.refused.is_disjoint(&numbers), "stored although it was refused");
            self.check_group(broker, &name, &kept, after).await;
        }
    }

    fn may_stay_away(&self, event: &(String, MessageId)) -> bool {
        self.sent.contains(event) || self.late.contains(event)
    }

    async fn check_group(
        &mut self,
        broker: &EmbeddedBroker,
        name: &str,
        kept: &BTreeMap<MessageId, u64>,
        after: After,
    ) {
        let key = |id: MessageId| (name.to_owned(), id);
        let group = group(&stream(name), "workers");
        // What the checker reads must not come back to it while it reads the rest.
        let settings = GroupSettings { lease_ms: 30_000, ..settings() };
        broker.configure_group(&group, settings).await.unwrap();
        let must: HashSet<MessageId> =
            kept.keys().copied().filter(|id| !self.may_stay_away(&key(*id))).collect();
        let mut came = HashSet::new();
        let until = Instant::now() + Duration::from_secs(30);
        while !must.is_subset(&came) {
            assert!(Instant::now() < until, "{} of {} come again", came.len(), must.len());
            for delivery in
                broker.read_group(&group, &consumer("checker"), waiting(1_000, 300)).await.unwrap()
            {
                let id = delivery.event.message_id;
                assert_eq!(kept.get(&id), Some(&delivery.event.payload.decode().unwrap()));
                let count = self.counts.entry(key(id)).or_default();
                if after == After::Kill {
                    assert!(!self.confirmed.contains(&key(id)), "{id} was acknowledged");
                    assert!(delivery.delivery_count > *count, "the count of {id} is too low");
                }
                *count = delivery.delivery_count.max(*count);
                came.insert(id);
            }
        }
    }
}

/// Short leases, and no end of deliveries.
pub(crate) fn settings() -> GroupSettings {
    GroupSettings { lease_ms: 100, max_deliveries: u32::MAX, ..GroupSettings::default() }
}

async fn kept(broker: &EmbeddedBroker, name: &str) -> BTreeMap<MessageId, u64> {
    let mut kept = BTreeMap::new();
    let mut query = RangeQuery { limit: 1_000, ..RangeQuery::default() };
    loop {
        let page = broker.read_range(&stream(name), &query).await.unwrap();
        for event in page.events {
            kept.insert(event.message_id, event.payload.decode().unwrap());
        }
        match page.more_after {
            Some(last) => query = query.after(last),
            None => return kept,
        }
    }
}
