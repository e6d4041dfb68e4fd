//! The broker as its callers see it: each call becomes one command of the writer thread.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use apix::{
    Acknowledged, Appended, Broker, BrokerInfo, ChannelKey, ConsumerName, DeadBody, DeadLetter,
    DeadLetterChoice, Delivery, Durability, Error, ErrorKind, Feed, GroupKey, GroupSettings,
    GroupStats, HybridAppended, Message, MessageId, NewEvent, Origin, RangePage, RangeQuery,
    ReadOptions, Receipt, Result, SeekTo, Settled, Settlement, StoredEvent, StreamKey, StreamName,
    StreamSettings, StreamStats, Subscription, TenantId,
};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::clock::{Now, Timekeeper, whole_ms};
use crate::codec::rows::DeadRecord;
use crate::commit::{Command, Operation, Run, Writer, dropped};
use crate::engine::{Engine, EngineOptions, FoundDead, GroupRead, Looked, Prepared, Turn};
use crate::fanout::Fanout;
use crate::fetch::{Fetched, fetch};
use crate::hybrid::Shown;
use crate::lock::FolderLock;
use crate::options::{EmbeddedOptions, Location};
use crate::store::{ReadPool, Wanted, damaged};
use crate::waiting::{FoundIn, Handed};

/// A filtered range looks at so many events at a time,
const FILTERED_STEP: usize = 1_000;
/// and at no more than this before it returns what it has.
const FILTERED_MOST: usize = 20_000;

/// The durable engine inside the process.
pub struct EmbeddedBroker {
    commands: Sender<Command>,
    waiting: Arc<Semaphore>,
    waiting_bytes: usize,
    fanout: Arc<Fanout>,
    reads: Option<Arc<ReadPool>>,
    durability: Durability,
    closed: Mutex<bool>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBroker")
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl EmbeddedBroker {
    /// Opens the data folder, which is made if there is none, and starts the writer thread.
    ///
    /// [`Conflict`](ErrorKind::Conflict) if another process holds the folder,
    /// [`Unsupported`](ErrorKind::Unsupported) if a newer version of APIX wrote it or the
    /// durability is none of this broker's, [`Corrupt`](ErrorKind::Corrupt) with the place if its
    /// data does not read back.
    pub async fn open(options: EmbeddedOptions) -> Result<Self> {
        let durability = options.effective_durability()?;
        let engine_options = EngineOptions {
            trim_every_ms: whole_ms(options.trim_every).max(1),
            tail_cache_bytes: options.tail_cache_bytes,
        };
        let (commands, received) = channel();
        let (opened, opening) = oneshot::channel();
        let (location, time) = (options.location.clone(), Timekeeper::new(options.clock));
        let serve = move || {
            let writer = hold(location).and_then(|folder| {
                Writer::start(received, folder, durability, engine_options, time)
            });
            match writer {
                Ok(writer) => {
                    let _ = opened.send(Ok(()));
                    writer.run();
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        };
        std::thread::Builder::new().name("apix-writer".to_owned()).spawn(serve).map_err(
            |fault| Error::unavailable("the writer thread cannot be started").with_source(fault),
        )?;
        opening.await.map_err(|_| dropped())??;
        let waiting_bytes = options.waiting_bytes.clamp(1, u32::MAX as usize);
        Ok(Self {
            commands,
            waiting: Arc::new(Semaphore::new(waiting_bytes)),
            waiting_bytes,
            fanout: Fanout::new(options.queue_bytes),
            reads: match &options.location {
                Location::Directory(folder) => Some(ReadPool::new(folder)),
                Location::Memory => None,
            },
            durability,
            closed: Mutex::new(false),
        })
    }

    /// Lets the writer look something up.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Now) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let run = move |engine: &mut Engine, turn: &mut Turn| look(engine, turn.now);
        self.call(0, false, run).await
    }

    /// Lets the writer change something; the answer comes when that is as safe as the durability
    /// says. `bytes` of events are in it.
    async fn change<T: Send + 'static>(
        &self,
        bytes: usize,
        change: impl FnOnce(&mut Engine, &mut Turn) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(bytes, true, change).await
    }

    async fn call<T: Send + 'static>(
        &self,
        bytes: usize,
        writes: bool,
        run: impl FnOnce(&mut Engine, &mut Turn) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let operation = move |engine: Result<&mut Engine, &Error>, turn: &mut Turn| {
            let value = engine.map_err(Error::duplicate).and_then(|engine| run(engine, turn));
            turn.answer(sender, value);
        };
        self.send(bytes, writes, Box::new(operation)).await?;
        answer.await.map_err(|_| dropped())?
    }

    async fn send(&self, bytes: usize, writes: bool, operation: Operation) -> Result<()> {
        let permit = if bytes == 0 {
            None
        } else {
            let part = u32::try_from(bytes.min(self.waiting_bytes)).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.waiting).acquire_many_owned(part).await;
            Some(permit.map_err(|_| dropped())?)
        };
        let command = Command::Run(Run { operation, writes, bytes, permit });
        self.commands.send(command).map_err(|_| Error::unavailable("the broker is closed"))
    }

    /// The events that were found; one that is missing is either gone by now or lost.
    async fn fetch(&self, key: &StreamKey, found: FoundIn) -> Result<Vec<Result<StoredEvent>>> {
        let mut events = Vec::with_capacity(found.events.len());
        for fetched in fetch(self.reads.as_ref(), found).await? {
            events.push(match fetched {
                Fetched::Event(event) => Ok(event),
                Fetched::Damaged(fault) => Err(fault),
                Fetched::Missing(one) => {
                    let (key, id) = (key.clone(), one.id);
                    let lost = self.look(move |engine, _| Ok(engine.should_have(&key, id)));
                    Err(lost.await?.unwrap_or_else(|| Error::not_found("the event was removed")))
                }
            });
        }
        Ok(events)
    }

    async fn deliveries(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        handed: Handed,
    ) -> Result<Vec<Delivery>> {
        let Handed { found, counts, lease_ms, at } = handed;
        let mut deliveries = Vec::with_capacity(counts.len());
        let mut fault = None;
        for (event, delivery_count) in
            self.fetch(&group.stream, found).await?.into_iter().zip(counts)
        {
            match event {
                Ok(event) => deliveries.push(Delivery {
                    event,
                    delivery_count,
                    consumer: consumer.clone(),
                    lease: std::time::Duration::from_millis(lease_ms),
                    received_at: at,
                }),
                Err(removed) if removed.kind() == ErrorKind::NotFound => {}
                Err(damage) => {
                    tracing::error!(error = %damage, "an event cannot be handed out");
                    fault = Some(damage);
                }
            }
        }
        // One bad event does not keep the others from their reader.
        match fault {
            Some(damage) if deliveries.is_empty() => Err(damage),
            _ => Ok(deliveries),
        }
    }

    fn dead_letter(
        &self,
        group: &GroupKey,
        id: MessageId,
        data: Option<Bytes>,
    ) -> Result<Option<DeadLetter>> {
        let Some(data) = data else { return Ok(None) };
        let damage = || damaged(format_args!("apix.db: table dead_letter, event {id} of {group}"));
        let record = DeadRecord::decode(data).ok_or_else(damage)?;
        let body = if record.event.is_empty() {
            DeadBody::Raw(vec![("fault".into(), record.reason.as_bytes().clone())])
        } else {
            let tenant = group.stream.tenant();
            let event = crate::codec::event::decode(tenant, id, &record.event);
            DeadBody::Event(Box::new(event.ok_or_else(damage)?))
        };
        Ok(Some(DeadLetter {
            message_id: id,
            reason: record.reason,
            at_ms: record.at_ms,
            attempts: record.attempts,
            body,
        }))
    }
}

/// Makes and locks the data folder.
fn hold(location: Location) -> Result<Option<(std::path::PathBuf, FolderLock)>> {
    let Location::Directory(folder) = location else { return Ok(None) };
    std::fs::create_dir_all(&folder).map_err(|fault| {
        Error::unavailable(format!("the data folder {} cannot be made: {fault}", folder.display()))
            .with_source(fault)
    })?;
    let lock = FolderLock::take(&folder)?;
    Ok(Some((folder, lock)))
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn info(&self) -> BrokerInfo {
        BrokerInfo {
            name: format!("embedded {}", env!("CARGO_PKG_VERSION")),
            durability: self.durability,
            warnings: Vec::new(),
        }
    }

    async fn check(&self) -> Result<()> {
        self.look(|_, _| Ok(())).await
    }

    async fn close(&self) {
        let first = {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            !std::mem::replace(&mut *closed, true)
        };
        if first {
            self.fanout.close();
            // The writer closes last, so that it is the one who empties the log.
            if let Some(reads) = &self.reads {
                reads.close();
            }
            let (closed, done) = oneshot::channel();
            if self.commands.send(Command::Close(closed)).is_ok() {
                let _ = done.await;
            }
        }
    }

    async fn append(&self, stream: &StreamKey, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        let bytes = events.iter().map(NewEvent::stored_bytes).sum();
        let prepared: Vec<_> = events.iter().map(Prepared::new).collect();
        drop(events);
        let stream = stream.clone();
        self.change(bytes, move |engine, turn| engine.append(turn, &stream, prepared)).await
    }

    async fn append_after(
        &self,
        stream: &StreamKey,
        expected: Option<MessageId>,
        event: NewEvent,
    ) -> Result<MessageId> {
        let (bytes, prepared) = (event.stored_bytes(), Prepared::new(&event));
        let stream = stream.clone();
        let run = move |engine: &mut Engine, turn: &mut Turn| {
            engine.append_after(turn, &stream, expected, prepared)
        };
        self.change(bytes, run).await
    }

    async fn publish_hybrid(
        &self,
        stream: &StreamKey,
        channel: &ChannelKey,
        mut event: NewEvent,
    ) -> Result<HybridAppended> {
        event.realtime_channel = Some(channel.channel().clone());
        let (bytes, prepared) = (event.stored_bytes(), Prepared::new(&event));
        let (stream, channel) = (stream.clone(), channel.clone());
        let fanout = Arc::clone(&self.fanout);
        let (sender, answer) = oneshot::channel();
        let operation = move |engine: Result<&mut Engine, &Error>, turn: &mut Turn| {
            let added = engine
                .map_err(Error::duplicate)
                .and_then(|engine| engine.append_hybrid(turn, &stream, &channel, prepared));
            match added {
                Ok((false, origin)) => {
                    turn.answers.push(Box::new(Shown { sender, fanout, channel, event, origin }))
                }
                Ok((true, Origin { message_id, .. })) => turn.answer(
                    sender,
                    Ok(HybridAppended { message_id, repeated: true, subscriber_count: None }),
                ),
                Err(error) => turn.answer(sender, Err(error)),
            }
        };
        self.send(bytes, true, Box::new(operation)).await?;
        answer.await.map_err(|_| dropped())?
    }

    async fn read_range(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage> {
        let filtered = query.event_type.is_some() || query.channel.is_some();
        let limit = query.limit.max(1);
        let step = if filtered { FILTERED_STEP } else { limit };
        let mut page = RangePage::default();
        let mut rest = query.clone();
        let mut looked_at = 0;
        loop {
            let (key, part) = (stream.clone(), rest.clone());
            let look = self.look(move |engine, _| engine.read_range(&key, &part, step));
            let Looked { found, more_after } = look.await?;
            looked_at += found.events.len();
            let mut events = self.fetch(stream, found).await?.into_iter();
            while let Some(event) = events.next() {
                match event {
                    Ok(event) if query.takes(&event) => page.events.push(event),
                    Ok(_) => {}
                    // Trimmed since it was found.
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    Err(fault) => return Err(fault),
                }
                if page.events.len() == limit {
                    let last = page.events.last().map(|event| event.message_id);
                    let more = more_after.is_some() || events.len() > 0;
                    page.more_after = last.filter(|_| more);
                    return Ok(page);
                }
            }
            match more_after {
                Some(last) if filtered && looked_at < FILTERED_MOST => rest = rest.after(last),
                more_after => {
                    page.more_after = more_after;
                    return Ok(page);
                }
            }
        }
    }

    async fn read_group(
        &self,
        group: &GroupKey,
        consumer: &ConsumerName,
        options: ReadOptions,
    ) -> Result<Vec<Delivery>> {
        let read = GroupRead {
            consumer: consumer.clone(),
            max_events: options.max_events,
            wait_ms: whole_ms(options.wait),
        };
        let (sender, answer) = oneshot::channel();
        let key = group.clone();
        let operation = move |engine: Result<&mut Engine, &Error>, turn: &mut Turn| match engine {
            Ok(engine) => engine.read_group(turn, &key, read, sender),
            Err(fault) => turn.answer(sender, Err(fault.duplicate())),
        };
        self.send(0, true, Box::new(operation)).await?;
        match answer.await.map_err(|_| dropped())?? {
            None => Ok(Vec::new()),
            Some(handed) => self.deliveries(group, consumer, handed).await,
        }
    }

    async fn acknowledge(&self, group: &GroupKey, receipts: &[Receipt]) -> Result<Acknowledged> {
        let (group, receipts) = (group.clone(), receipts.to_vec());
        self.change(0, move |engine, turn| Ok(engine.acknowledge(turn, &group, &receipts))).await
    }

    async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        let group = group.clone();
        self.change(0, move |engine, turn| Ok(engine.settle(turn, &group, settlements))).await
    }

    async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()> {
        let group = group.clone();
        self.change(0, move |engine, turn| engine.seek_group(turn, &group, to)).await
    }

    async fn configure_group(&self, group: &GroupKey, settings: GroupSettings) -> Result<()> {
        let group = group.clone();
        self.change(0, move |engine, turn| engine.configure_group(turn, &group, settings)).await
    }

    async fn delete_group(&self, group: &GroupKey) -> Result<()> {
        let group = group.clone();
        self.change(0, move |engine, turn| engine.delete_group(turn, &group)).await
    }

    async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats> {
        let group = group.clone();
        self.look(move |engine, now| engine.group_stats(&group, now)).await
    }

    async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let key = group.clone();
        let find = self.look(move |engine, _| engine.dead_letters(&key, after, limit));
        let FoundDead { group: no, letters } = find.await?;
        let wanted: Vec<_> = letters
            .iter()
            .filter(|(_, here)| here.is_none())
            .map(|(id, _)| Wanted::Dead(no, *id))
            .collect();
        let mut read = match &self.reads {
            Some(reads) if !wanted.is_empty() => reads.fetch(wanted).await?,
            _ => Vec::new(),
        }
        .into_iter();
        let mut found = Vec::with_capacity(letters.len());
        for (id, here) in letters {
            let data = here.or_else(|| read.next().flatten());
            // One that is not there any more was retried or discarded meanwhile.
            found.extend(self.dead_letter(group, id, data)?);
        }
        Ok(found)
    }

    async fn retry_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice) -> Result<u64> {
        let (group, which) = (group.clone(), which.clone());
        self.change(0, move |engine, turn| engine.retry_dead_letters(turn, &group, &which)).await
    }

    async fn discard_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        let (group, which) = (group.clone(), which.clone());
        self.change(0, move |engine, turn| engine.discard_dead_letters(turn, &group, &which)).await
    }

    async fn configure_stream(&self, stream: &StreamKey, settings: StreamSettings) -> Result<()> {
        let stream = stream.clone();
        self.change(0, move |engine, turn| engine.configure_stream(turn, &stream, settings)).await
    }

    async fn delete_stream(&self, stream: &StreamKey) -> Result<()> {
        let stream = stream.clone();
        self.change(0, move |engine, turn| engine.delete_stream(turn, &stream)).await
    }

    async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>> {
        let tenant = tenant.clone();
        self.look(move |engine, _| Ok(engine.list_streams(&tenant))).await
    }

    async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats> {
        let stream = stream.clone();
        self.look(move |engine, now| engine.stream_stats(&stream, now)).await
    }

    async fn trim(&self, stream: &StreamKey) -> Result<u64> {
        let stream = stream.clone();
        self.change(0, move |engine, turn| engine.trim(turn, &stream)).await
    }

    async fn publish(&self, channel: &ChannelKey, message: Message) -> Result<u64> {
        if *self.closed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Error::unavailable("the broker is closed"));
        }
        Ok(self.fanout.publish(channel, || message))
    }

    async fn subscribe(&self, channel: &ChannelKey) -> Result<Subscription> {
        self.fanout.subscribe(channel)
    }

    async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>> {
        let channel = channel.clone();
        self.look(move |engine, _| Ok(engine.channel_feeds(&channel))).await
    }
}
