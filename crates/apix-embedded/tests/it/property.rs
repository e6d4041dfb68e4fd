//! Random operations on the engine and on the model, side by side: every answer and everything
//! that can be seen is the same, also when the folder is opened again, or was killed, in between.

use std::sync::Arc;
use std::time::Duration;

use apix::{
    Broker, DeadBody, DeadLetterChoice, ErrorKind, GroupSettings, Holder, MessageId, Order,
    RangeQuery, Receipt, SeekTo, Settled, Settlement, StoredEvent,
};
use apix_embedded::{Clock, EmbeddedBroker, EmbeddedOptions, Location, ManualClock};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::model::{Model, ModelEvent, ModelGroup, Named, State};
use crate::scene::{at_once, channel, consumer, event, group, keyed_event, stream};

#[derive(Clone, Debug)]
enum Step {
    Append { stream: usize, events: Vec<(u64, Option<u8>)> },
    AppendAfter { stream: usize, right: bool },
    Hybrid { stream: usize, channel: usize, n: u64, key: Option<u8> },
    Read { stream: usize, group: usize, consumer: usize, max: usize },
    Acknowledge { which: usize, anyone: bool },
    Retry { which: usize, anyone: bool, after: u64 },
    GiveUp { which: usize },
    Extend { which: usize, lease: u64 },
    Seek { stream: usize, group: usize, to: usize },
    Group { stream: usize, group: usize, settings: GroupSettings },
    Stream { stream: usize, max_len: Option<u64>, hard: u64 },
    Trim { stream: usize },
    DeleteGroup { stream: usize, group: usize },
    DeleteStream { stream: usize },
    RetryDead { stream: usize, group: usize, which: Option<usize> },
    DiscardDead { stream: usize, group: usize, which: Option<usize> },
    Range { stream: usize, from: usize, limit: usize, descending: bool, channel: Option<usize> },
    Advance { ms: u64 },
    SetClock { back: bool, ms: u64 },
    Reopen { killed: bool },
}

fn settings() -> impl Strategy<Value = GroupSettings> {
    let lease = prop_oneof![Just(1_000_u64), Just(5_000), Just(30_000)];
    let in_flight = prop_oneof![3 => Just(None), 1 => (1_u64..4).prop_map(Some)];
    (lease, 1_u32..4, in_flight, prop::bool::weighted(0.1)).prop_map(
        |(lease_ms, max_deliveries, max_in_flight, paused)| GroupSettings {
            lease_ms,
            max_deliveries,
            max_in_flight,
            paused,
            ..GroupSettings::default()
        },
    )
}

#[rustfmt::skip]
fn step() -> impl Strategy<Value = Step> {
    let (s, g, c) = (0..2_usize, 0..2_usize, 0..2_usize);
    let which = 0..1_000_usize;
    let key = || prop_oneof![3 => Just(None), 1 => (0..4_u8).prop_map(Some)];
    let events = prop::collection::vec((0..4_u64, key()), 1..4);
    let after = prop_oneof![Just(0_u64), Just(200), Just(3_000), Just(70_000)];
    let hard = prop_oneof![3 => Just(0_u64), 1 => 50..600_u64];
    prop_oneof![
        8 => (s.clone(), events).prop_map(|(stream, events)| Step::Append { stream, events }),
        1 => (s.clone(), any::<bool>()).prop_map(|(stream, right)| Step::AppendAfter { stream, right }),
        4 => (s.clone(), 0..2_usize, 0..4_u64, key()).prop_map(|(stream, channel, n, key)| Step::Hybrid { stream, channel, n, key }),
        10 => (s.clone(), g.clone(), c, 1..5_usize).prop_map(|(stream, group, consumer, max)| Step::Read { stream, group, consumer, max }),
        5 => (which.clone(), any::<bool>()).prop_map(|(which, anyone)| Step::Acknowledge { which, anyone }),
        5 => (which.clone(), any::<bool>(), after).prop_map(|(which, anyone, after)| Step::Retry { which, anyone, after }),
        2 => which.clone().prop_map(|which| Step::GiveUp { which }),
        2 => (which.clone(), 100..40_000_u64).prop_map(|(which, lease)| Step::Extend { which, lease }),
        2 => (s.clone(), g.clone(), 0..8_usize).prop_map(|(stream, group, to)| Step::Seek { stream, group, to }),
        2 => (s.clone(), g.clone(), settings()).prop_map(|(stream, group, settings)| Step::Group { stream, group, settings }),
        2 => (s.clone(), prop::option::of(1..6_u64), hard).prop_map(|(stream, max_len, hard)| Step::Stream { stream, max_len, hard }),
        3 => s.clone().prop_map(|stream| Step::Trim { stream }),
        1 => (s.clone(), g.clone()).prop_map(|(stream, group)| Step::DeleteGroup { stream, group }),
        1 => s.clone().prop_map(|stream| Step::DeleteStream { stream }),
        2 => (s.clone(), g.clone(), prop::option::of(0..4_usize)).prop_map(|(stream, group, which)| Step::RetryDead { stream, group, which }),
        1 => (s.clone(), g, prop::option::of(0..4_usize)).prop_map(|(stream, group, which)| Step::DiscardDead { stream, group, which }),
        2 => (s, 0..8_usize, 1..5_usize, any::<bool>(), prop::option::of(0..2_usize)).prop_map(|(stream, from, limit, descending, channel)| Step::Range { stream, from, limit, descending, channel }),
        5 => prop_oneof![Just(1_u64), Just(250), Just(1_000), Just(6_000), Just(80_000)].prop_map(|ms| Step::Advance { ms }),
        1 => (any::<bool>(), 1..10_000_u64).prop_map(|(back, ms)| Step::SetClock { back, ms }),
        3 => any::<bool>().prop_map(|killed| Step::Reopen { killed }),
    ]
}

/// The engine and the model, and what was handed out so far.
struct Pair {
    broker: EmbeddedBroker,
    model: Model,
    clock: Arc<ManualClock>,
    folder: Option<TempDir>,
    cache: usize,
    out: Vec<(usize, usize, MessageId, String, u32)>,
}

fn options(clock: &Arc<ManualClock>, folder: Option<&TempDir>, cache: usize) -> EmbeddedOptions {
    EmbeddedOptions {
        location: folder
            .map_or(Location::Memory, |folder| Location::Directory(folder.path().into())),
        trim_every: Duration::from_secs(1 << 40),
        clock: Clock::Manual(Arc::clone(clock)),
        tail_cache_bytes: cache,
        ..EmbeddedOptions::default()
    }
}

fn name(kind: &str, no: usize) -> String {
    format!("{kind}{no}")
}

fn key_text(key: Option<u8>) -> Option<String> {
    key.map(|key| format!("key{key}"))
}

fn kind<T>(result: apix::Result<T>) -> Result<T, ErrorKind> {
    result.map_err(|error| error.kind())
}

impl Pair {
    async fn start(on_disk: bool, cache: usize) -> Self {
        let clock = ManualClock::new(1_764_000_000_000);
        let folder = on_disk.then(|| tempfile::tempdir().unwrap());
        let broker = EmbeddedBroker::open(options(&clock, folder.as_ref(), cache)).await.unwrap();
        let model = Model { unix: clock.unix_ms(), ..Model::default() };
        Self { broker, model, clock, folder, cache, out: Vec::new() }
    }

    async fn step(&mut self, step: Step) {
        self.model.pass_time();
        match step {
            Step::Append { stream, events } => self.append(stream, &events).await,
            Step::AppendAfter { stream, right } => self.append_after(stream, right).await,
            Step::Hybrid { stream, channel, n, key } => self.hybrid(stream, channel, n, key).await,
            Step::Read { stream, group, consumer, max } => {
                self.read(stream, group, consumer, max).await;
            }
            Step::Acknowledge { which, anyone } => self.acknowledge(which, anyone).await,
            Step::Retry { which, anyone, after } => {
                let what = Settlement::Retry {
                    after: Some(Duration::from_millis(after)),
                    reason: "again".into(),
                };
                self.settle(which, anyone, what).await;
            }
            Step::GiveUp { which } => {
                self.settle(which, false, Settlement::DeadLetter { reason: "no".into() }).await;
            }
            Step::Extend { which, lease } => {
                let lease = Duration::from_millis(lease);
                self.settle(which, false, Settlement::Extend { lease }).await;
            }
            Step::Seek { stream, group, to } => self.seek(stream, group, to).await,
            Step::Group { stream: s, group: g, settings } => {
                let key = group(&stream(&name("s", s)), &name("g", g));
                self.broker.configure_group(&key, settings.clone()).await.unwrap();
                self.model.configure_group(s, g, settings);
            }
            Step::Stream { stream: s, max_len, hard } => {
                let mut settings = apix::StreamSettings::default();
                settings.retention.max_len = max_len;
                settings.retention.hard_max_bytes = hard;
                settings.idempotency.max_keys = 3;
                let key = stream(&name("s", s));
                self.broker.configure_stream(&key, settings.clone()).await.unwrap();
                self.model.configure_stream(s, settings);
            }
            Step::Trim { stream: s } => {
                let trimmed = kind(self.broker.trim(&stream(&name("s", s))).await);
                assert_eq!(trimmed, self.model.trim(s));
            }
            Step::DeleteGroup { stream: s, group: g } => {
                let key = group(&stream(&name("s", s)), &name("g", g));
                let deleted = kind(self.broker.delete_group(&key).await);
                let expected = self.model.group(s, g).map(drop);
                if expected.is_ok() {
                    self.model.streams.get_mut(&s).unwrap().groups.remove(&g);
                }
                assert_eq!(deleted, expected);
            }
            Step::DeleteStream { stream: s } => {
                let deleted = kind(self.broker.delete_stream(&stream(&name("s", s))).await);
                assert_eq!(deleted, self.model.delete_stream(s));
            }
            Step::RetryDead { stream, group, which } => {
                self.dead_letters(stream, group, which, true).await;
            }
            Step::DiscardDead { stream, group, which } => {
                self.dead_letters(stream, group, which, false).await;
            }
            Step::Range { stream, from, limit, descending, channel } => {
                self.range(stream, from, limit, descending, channel).await;
            }
            Step::Advance { ms } => {
                self.clock.advance(ms);
                self.model.elapsed += ms;
                self.model.unix += ms;
            }
            Step::SetClock { back, ms } => {
                let unix = self.model.unix;
                self.model.unix = if back { unix - ms } else { unix + ms };
                self.clock.set_unix_ms(self.model.unix);
            }
            Step::Reopen { killed } => self.reopen(killed).await,
        }
        self.model.pass_time();
        self.compare().await;
    }

    async fn append(&mut self, s: usize, events: &[(u64, Option<u8>)]) {
        let new: Vec<_> = events
            .iter()
            .map(|(n, key)| key_text(*key).map_or_else(|| event(*n), |key| keyed_event(*n, &key)))
            .collect();
        let told: Vec<_> = events
            .iter()
            .zip(&new)
            .map(|((n, key), new)| (*n, new.stored_bytes() as u64, key_text(*key)))
            .collect();
        let appended = kind(self.broker.append(&stream(&name("s", s)), new).await);
        let appended = appended
            .map(|all| all.iter().map(|one| (one.message_id, one.repeated)).collect::<Vec<_>>());
        assert_eq!(appended, self.model.append(s, &told, None));
    }

    async fn append_after(&mut self, s: usize, right: bool) {
        let last = self.model.streams.get(&s).and_then(|stream| stream.last_id);
        let expected = if right { last } else { Some(MessageId::new(1, 1)) };
        let new = event(3);
        let told = [(3, new.stored_bytes() as u64, None)];
        let key = stream(&name("s", s));
        let appended = kind(self.broker.append_after(&key, expected, new).await);
        if right {
            assert_eq!(appended, self.model.append(s, &told, None).map(|ids| ids[0].0));
        } else {
            assert_eq!(appended, Err(ErrorKind::Conflict));
        }
    }

    async fn hybrid(&mut self, s: usize, c: usize, n: u64, key: Option<u8>) {
        let key = key_text(key);
        let new = key.as_ref().map_or_else(|| event(n), |key| keyed_event(n, key));
        let bytes = new.stored_bytes() as u64;
        let (to, on) = (stream(&name("s", s)), channel(&name("c", c)));
        let mut subscription = self.broker.subscribe(&on).await.unwrap();
        let shown = kind(self.broker.publish_hybrid(&to, &on, new).await);
        let expected = self.model.append(s, &[(n, bytes, key)], Some(c));
        let expected = expected.map(|ids| ids[0]);
        assert_eq!(shown.map(|shown| (shown.message_id, shown.repeated)), expected);
        match (expected, subscription.try_recv()) {
            (Ok((id, false)), Some(apix::Update::Message(message))) => {
                let origin = message.origin().unwrap();
                let event = self.model.streams[&s].events.last().unwrap();
                assert_eq!((origin.message_id, origin.prev_message_id), (id, event.previous));
            }
            (Ok((_, true)) | Err(_), None) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn read(&mut self, s: usize, g: usize, c: usize, max: usize) {
        let key = group(&stream(&name("s", s)), &name("g", g));
        let who = name("c", c);
        let read = self.broker.read_group(&key, &consumer(&who), at_once(max)).await.unwrap();
        let seen: Vec<_> = read
            .iter()
            .map(|one| {
                (one.event.message_id, one.event.payload.decode().unwrap(), one.delivery_count)
            })
            .collect();
        assert_eq!(seen, self.model.read(s, g, &who, max));
        self.out.extend(seen.into_iter().map(|(id, _, count)| (s, g, id, who.clone(), count)));
    }

    fn named(&self, which: usize, anyone: bool) -> Option<(usize, usize, Receipt, Named)> {
        // Mostly what was handed out last; sometimes long ago.
        let back = if which.is_multiple_of(3) { which } else { which % 6 } % self.out.len().max(1);
        let (s, g, id, who, count) = self.out.iter().rev().nth(back)?.clone();
        let holder = (!anyone).then(|| Holder {
            consumer: consumer(&who),
            delivery_count: Some(count),
            held_until: None,
        });
        let receipt = Receipt { message_id: id, holder };
        Some((s, g, receipt, (id, (!anyone).then_some((who, count)))))
    }

    async fn acknowledge(&mut self, which: usize, anyone: bool) {
        let Some((s, g, receipt, named)) = self.named(which, anyone) else { return };
        let key = group(&stream(&name("s", s)), &name("g", g));
        let done = self.broker.acknowledge(&key, &[receipt]).await.unwrap();
        assert_eq!((done.count, done.lease_lost), self.model.acknowledge(s, g, &named));
    }

    async fn settle(&mut self, which: usize, anyone: bool, what: Settlement) {
        let Some((s, g, receipt, named)) = self.named(which, anyone) else { return };
        let key = group(&stream(&name("s", s)), &name("g", g));
        let mut settled = self.broker.settle(&key, vec![(receipt, what.clone())]).await.unwrap();
        let settled = kind(settled.remove(0));
        match what {
            Settlement::Retry { after, reason } => {
                let after = after.map(|after| u64::try_from(after.as_millis()).unwrap());
                let dead = settled.map(|settled| settled == Settled::DeadLettered);
                assert_eq!(dead, self.model.reject(s, g, &named, after, &reason));
            }
            Settlement::DeadLetter { reason } => {
                let dead = settled.map(|settled| settled == Settled::DeadLettered);
                assert_eq!(dead, self.model.reject(s, g, &named, None, &reason));
            }
            Settlement::Extend { lease } => {
                let lease = u64::try_from(lease.as_millis()).unwrap();
                assert_eq!(settled.map(drop), self.model.extend(s, g, &named, lease));
            }
        }
    }

    fn nth_id(&self, s: usize, nth: usize) -> MessageId {
        let events = self.model.streams.get(&s).map_or(&[][..], |stream| &stream.events);
        events.get(nth).map_or(MessageId::new(self.model.unix, 0), |event| event.id)
    }

    async fn seek(&mut self, s: usize, g: usize, to: usize) {
        let (to, cursor) = match to {
            0 => (SeekTo::Start, None),
            1 => (SeekTo::End, None),
            nth => (SeekTo::Id(self.nth_id(s, nth - 2)), Some(self.nth_id(s, nth - 2).previous())),
        };
        let key = group(&stream(&name("s", s)), &name("g", g));
        let sought = kind(self.broker.seek_group(&key, to).await);
        let Some(stream) = self.model.streams.get(&s) else {
            assert_eq!(sought, Err(ErrorKind::NotFound));
            return;
        };
        assert_eq!(sought, Ok(()));
        let first = stream.events.first().map(|event| event.id.previous());
        let cursor = match to {
            SeekTo::Start => first.or(stream.last_id),
            SeekTo::End => stream.last_id,
            _ => cursor,
        };
        let group = self.model.make_group(s, g);
        group.cursor = cursor;
        group.held.clear();
    }

    async fn dead_letters(&mut self, s: usize, g: usize, which: Option<usize>, retry: bool) {
        let key = group(&stream(&name("s", s)), &name("g", g));
        let chosen = which.map(|which| {
            let dead = self.model.group(s, g).ok().and_then(|g| g.dead.keys().nth(which).copied());
            dead.unwrap_or(MessageId::new(5, 5))
        });
        let choice = chosen.map_or(DeadLetterChoice::All, |id| DeadLetterChoice::Ids(vec![id]));
        if retry {
            let retried = kind(self.broker.retry_dead_letters(&key, &choice).await);
            assert_eq!(retried, self.model.retry_dead(s, g, chosen));
        } else {
            let dropped = kind(self.broker.discard_dead_letters(&key, &choice).await);
            let expected = self.model.group(s, g).map(|group| {
                let before = group.dead.len();
                group.dead.retain(|id, _| chosen.is_some_and(|chosen| chosen != *id));
                (before - group.dead.len()) as u64
            });
            assert_eq!(dropped, expected);
        }
    }

    async fn range(&self, s: usize, from: usize, limit: usize, down: bool, c: Option<usize>) {
        let order = if down { Order::Descending } else { Order::Ascending };
        let on = c.map(|c| channel(&name("c", c)).channel().clone());
        let from = self.nth_id(s, from);
        let query = RangeQuery { from, limit, order, channel: on, ..RangeQuery::default() };
        let page = kind(self.broker.read_range(&stream(&name("s", s)), &query).await);
        let Some(stream) = self.model.streams.get(&s) else {
            assert_eq!(page.unwrap_err(), ErrorKind::NotFound);
            return;
        };
        let mut expected: Vec<_> = stream
            .events
            .iter()
            .filter(|event| event.id >= from && c.is_none_or(|c| event.channel == Some(c)))
            .collect();
        if down {
            expected.reverse();
        }
        let page = page.unwrap();
        let more = expected.len() > limit;
        expected.truncate(limit);
        assert_eq!(page.events.len(), expected.len());
        page.events.iter().zip(&expected).for_each(|(seen, event)| same_event(seen, event));
        assert!(page.more_after.is_some() || !more);
    }

    async fn reopen(&mut self, killed: bool) {
        let Some(folder) = &self.folder else { return };
        if killed {
            // What a kill leaves is what the operating system has: the files as they are.
            let left = tempfile::tempdir().unwrap();
            for name in ["apix.db", "apix.db-wal", "apix.seal"] {
                let _ = std::fs::copy(folder.path().join(name), left.path().join(name));
            }
            self.broker.close().await;
            self.folder = Some(left);
        } else {
            self.broker.close().await;
        }
        let options = options(&self.clock, self.folder.as_ref(), self.cache);
        self.broker = EmbeddedBroker::open(options).await.unwrap();
        self.model.reopen();
    }

    /// Everything that can be seen.
    async fn compare(&mut self) {
        for s in 0..2 {
            let key = stream(&name("s", s));
            let Some(expected) = self.model.streams.get(&s) else {
                let gone = self.broker.stream_stats(&key).await;
                assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
                continue;
            };
            let stats = self.broker.stream_stats(&key).await.unwrap();
            assert_eq!(stats.length, expected.events.len() as u64);
            assert_eq!(stats.bytes, expected.events.iter().map(|event| event.bytes).sum::<u64>());
            assert_eq!(
                (stats.last_id, stats.trimmed_to, stats.hard_limit_dropped),
                (expected.last_id, expected.trimmed_to, expected.hard_dropped)
            );
            assert_eq!(stats.settings, expected.settings);
            assert_eq!(stats.groups.len(), expected.groups.len());
            let page = self.broker.read_range(&key, &RangeQuery::default()).await.unwrap();
            assert_eq!(page.events.len(), expected.events.len());
            page.events.iter().zip(&expected.events).for_each(|(a, b)| same_event(a, b));
            for (seen, (g, group)) in stats.groups.iter().zip(&expected.groups) {
                assert_eq!(seen.group.as_str(), name("g", *g));
                self.compare_group(s, *g, seen, group).await;
            }
        }
        for c in 0..2 {
            let feeds = self.broker.channel_feeds(&channel(&name("c", c))).await.unwrap();
            let seen: Vec<_> =
                feeds.iter().map(|feed| (feed.stream.as_str().to_owned(), feed.tip)).collect();
            let expected: Vec<_> = (0..2)
                .filter_map(|s| Some((name("s", s), *self.model.feeds.get(&(c, s))?)))
                .collect();
            assert_eq!(seen, expected);
        }
    }

    async fn compare_group(&self, s: usize, g: usize, seen: &apix::GroupStats, group: &ModelGroup) {
        let unread = self.model.streams[&s]
            .events
            .iter()
            .filter(|event| event.id > group.cursor.unwrap_or(MessageId::MIN))
            .filter(|event| !group.held.contains_key(&event.id));
        assert_eq!(seen.lag, Some(unread.count() as u64));
        let pending = group
            .held
            .values()
            .filter(|held| matches!(held.state, State::Out { .. } | State::Expired { .. }));
        let pending = pending.count();
        assert_eq!(seen.pending, pending as u64);
        assert_eq!(seen.parked, (group.held.len() - pending) as u64);
        assert_eq!(seen.consumers.iter().map(|one| one.pending).sum::<u64>(), pending as u64);
        assert_eq!((seen.lost, seen.dead_letters), (group.lost, group.dead.len() as u64));
        assert_eq!(seen.last_delivered_id, group.cursor.unwrap_or(MessageId::MIN));
        assert_eq!(seen.settings, group.settings);
        let key = crate::scene::group(&stream(&name("s", s)), &name("g", g));
        let letters = self.broker.dead_letters(&key, None, 1_000).await.unwrap();
        assert_eq!(letters.len(), group.dead.len());
        for (letter, (id, dead)) in letters.iter().zip(&group.dead) {
            assert_eq!((letter.message_id, letter.reason.as_ref()), (*id, dead.reason.as_bytes()));
            let attempts: Vec<_> = letter
                .attempts
                .iter()
                .map(|one| (one.consumer.to_string(), one.reason.to_string()))
                .collect();
            assert_eq!(attempts, dead.attempts);
            let DeadBody::Event(event) = &letter.body else { panic!("{letter:?}") };
            same_event(event, &dead.event);
        }
    }
}

fn same_event(seen: &StoredEvent, expected: &ModelEvent) {
    assert_eq!(seen.message_id, expected.id);
    assert_eq!(seen.payload.decode::<u64>().unwrap(), expected.n);
    let on = expected.channel.map(|c| name("c", c));
    assert_eq!(seen.realtime_channel.as_ref().map(|c| c.as_str()), on.as_deref());
    assert_eq!(seen.prev_message_id, expected.previous);
}

fn run(on_disk: bool, cache: usize, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut pair = Pair::start(on_disk, cache).await;
        for step in steps {
            pair.step(step).await;
        }
        pair.broker.close().await;
    });
}

/// Few by default; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(48, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_on_disk_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..80),
        cache in prop_oneof![Just(0_usize), Just(300), Just(1 << 20)],
    ) {
        run(true, cache, steps);
    }

    #[test]
    fn the_engine_in_memory_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(false, 0, steps);
    }
}
