//! The broker as its callers see it: each call becomes one command of the writer thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use apix::{
    Acknowledged, Appended, Broker, BrokerInfo, ChannelKey, ConsumerName, DeadLetter,
    DeadLetterChoice, Delivery, Durability, Error, Feed, GroupKey, GroupSettings, GroupStats,
    HybridAppended, Message, MessageId, NewEvent, Origin, RangePage, RangeQuery, ReadOptions,
    Receipt, Result, SeekTo, Settled, Settlement, StreamKey, StreamName, StreamSettings,
    StreamStats, Subscription, TenantId,
};
use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::client::Client;
use crate::clock::{Timekeeper, whole_ms};
use crate::commit::{Writer, dropped};
use crate::engine::{Engine, EngineOptions, GroupRead, Prepared, Turn};
use crate::fanout::Fanout;
use crate::folder;
use crate::hybrid::Shown;
use crate::lock::FolderLock;
use crate::options::{EmbeddedOptions, Location};
use crate::store::{ReadPool, StoreOptions};

/// The durable engine inside the process.
pub struct EmbeddedBroker {
    pub(crate) client: Client,
    fanout: Arc<Fanout>,
    pub(crate) reads: Option<Arc<ReadPool>>,
    durability: Durability,
    closed: AtomicBool,
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
    /// [`Conflict`](apix::ErrorKind::Conflict) if another process holds the folder,
    /// [`Unsupported`](apix::ErrorKind::Unsupported) if a newer version of APIX wrote it or the
    /// durability is none of this broker's, [`Corrupt`](apix::ErrorKind::Corrupt) with the place if its
    /// data does not read back.
    pub async fn open(options: EmbeddedOptions) -> Result<Self> {
        let durability = options.effective_durability()?;
        let engine_options = EngineOptions {
            trim_every_ms: whole_ms(options.trim_every).max(1),
            tail_cache_bytes: options.tail_cache_bytes,
            store: StoreOptions { durability, log_bytes: options.log_bytes },
        };
        let (commands, received) = channel();
        let (opened, opening) = oneshot::channel();
        let (location, time) = (options.location.clone(), Timekeeper::new(options.clock));
        let serve = move || {
            let writer = hold(location)
                .and_then(|folder| Writer::start(received, folder, engine_options, time));
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
        Ok(Self {
            client: Client::new(commands, options.waiting_bytes),
            fanout: Fanout::new(options.queue_bytes),
            reads: match &options.location {
                Location::Directory(folder) => Some(ReadPool::new(folder)),
                Location::Memory => None,
            },
            durability,
            closed: AtomicBool::new(false),
        })
    }
}

/// Makes and locks the data folder.
fn hold(location: Location) -> Result<Option<(std::path::PathBuf, FolderLock)>> {
    let Location::Directory(folder) = location else { return Ok(None) };
    folder::make(&folder)?;
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
        // As something that is written: on a full disk the broker does not serve.
        self.client.call(0, true, |_, _| Ok(())).await
    }

    async fn close(&self) {
        let first = !self.closed.swap(true, Ordering::SeqCst);
        if first {
            self.fanout.close();
            // The writer closes last, so that it is the one who empties the log.
            if let Some(reads) = &self.reads {
                reads.close();
            }
            self.client.close().await;
        }
    }

    async fn append(&self, stream: &StreamKey, events: Vec<NewEvent>) -> Result<Vec<Appended>> {
        let bytes = events.iter().map(NewEvent::stored_bytes).sum();
        let prepared: Vec<_> = events.iter().map(Prepared::new).collect();
        drop(events);
        let stream = stream.clone();
        self.client.change(bytes, move |engine, turn| engine.append(turn, &stream, prepared)).await
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
        self.client.change(bytes, run).await
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
        self.client.send(bytes, true, Box::new(operation)).await?;
        answer.await.map_err(|_| dropped())?
    }

    async fn read_range(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage> {
        self.page(stream, query).await
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
        self.client.send(0, true, Box::new(operation)).await?;
        match answer.await.map_err(|_| dropped())?? {
            None => Ok(Vec::new()),
            Some(handed) => self.deliveries(group, consumer, handed).await,
        }
    }

    async fn acknowledge(&self, group: &GroupKey, receipts: &[Receipt]) -> Result<Acknowledged> {
        let (group, receipts) = (group.clone(), receipts.to_vec());
        self.client
            .change(0, move |engine, turn| Ok(engine.acknowledge(turn, &group, &receipts)))
            .await
    }

    async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        let group = group.clone();
        self.client
            .change(0, move |engine, turn| Ok(engine.settle(turn, &group, settlements)))
            .await
    }

    async fn seek_group(&self, group: &GroupKey, to: SeekTo) -> Result<()> {
        let group = group.clone();
        self.client.change(0, move |engine, turn| engine.seek_group(turn, &group, to)).await
    }

    async fn configure_group(&self, group: &GroupKey, settings: GroupSettings) -> Result<()> {
        let group = group.clone();
        self.client
            .change(0, move |engine, turn| engine.configure_group(turn, &group, settings))
            .await
    }

    async fn delete_group(&self, group: &GroupKey) -> Result<()> {
        let group = group.clone();
        self.client.change(0, move |engine, turn| engine.delete_group(turn, &group)).await
    }

    async fn group_stats(&self, group: &GroupKey) -> Result<GroupStats> {
        let group = group.clone();
        self.client.look(move |engine, now| engine.group_stats(&group, now)).await
    }

    async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.letters(group, after, limit).await
    }

    async fn retry_dead_letters(&self, group: &GroupKey, which: &DeadLetterChoice) -> Result<u64> {
        self.in_parts(group, which, Engine::retry_dead_letters).await
    }

    async fn discard_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        self.in_parts(group, which, Engine::discard_dead_letters).await
    }

    async fn configure_stream(&self, stream: &StreamKey, settings: StreamSettings) -> Result<()> {
        let stream = stream.clone();
        self.client
            .change(0, move |engine, turn| engine.configure_stream(turn, &stream, settings))
            .await
    }

    async fn delete_stream(&self, stream: &StreamKey) -> Result<()> {
        let stream = stream.clone();
        self.client.change(0, move |engine, turn| engine.delete_stream(turn, &stream)).await
    }

    async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>> {
        let tenant = tenant.clone();
        self.client.look(move |engine, _| Ok(engine.list_streams(&tenant))).await
    }

    async fn stream_stats(&self, stream: &StreamKey) -> Result<StreamStats> {
        let stream = stream.clone();
        self.client.look(move |engine, now| engine.stream_stats(&stream, now)).await
    }

    async fn trim(&self, stream: &StreamKey) -> Result<u64> {
        let stream = stream.clone();
        self.client.change(0, move |engine, turn| engine.trim(turn, &stream)).await
    }

    async fn publish(&self, channel: &ChannelKey, message: Message) -> Result<u64> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the broker is closed"));
        }
        Ok(self.fanout.publish(channel, || message))
    }

    async fn subscribe(&self, channel: &ChannelKey) -> Result<Subscription> {
        self.fanout.subscribe(channel)
    }

    async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>> {
        let channel = channel.clone();
        self.client.look(move |engine, _| Ok(engine.channel_feeds(&channel))).await
    }
}
