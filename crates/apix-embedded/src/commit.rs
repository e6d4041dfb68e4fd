//! Group commit: the writer thread takes all commands that wait, applies them in memory, writes one
//! transaction, flushes once, and only then answers everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use apix::{Durability, Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::clock::Timekeeper;
use crate::engine::{Engine, EngineOptions, Turn};
use crate::lock::FolderLock;
use crate::store::StoreFault;

/// The most commands in one commit.
const MAX_COMMANDS: usize = 1_024;
/// The most event bytes in one commit, the last command aside.
const MAX_BYTES: usize = 4 << 20;

/// What the writer does for a caller: with the engine, or with the reason why it cannot be done.
pub(crate) type Operation =
    Box<dyn FnOnce(std::result::Result<&mut Engine, &Error>, &mut Turn) + Send>;

/// After the disk was full, callers are refused for so long before it is tried again.
const FULL_PAUSE_MS: u64 = 500;

/// What a caller asks of the writer.
pub(crate) enum Command {
    /// One operation of the broker.
    Run(Run),
    /// The last one.
    Close(oneshot::Sender<()>),
}

/// One operation of the broker.
pub(crate) struct Run {
    /// What to do.
    pub(crate) operation: Operation,
    /// Whether it may have to be written.
    pub(crate) writes: bool,
    /// Event bytes in it.
    pub(crate) bytes: usize,
    /// Its part of the bytes that may wait, held until it is written.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// The writer thread.
pub(crate) struct Writer {
    pub(crate) commands: Receiver<Command>,
    pub(crate) folder: Option<(PathBuf, FolderLock)>,
    pub(crate) options: EngineOptions,
    pub(crate) time: Timekeeper,
    /// None: the store failed and could not be opened again yet.
    pub(crate) engine: Option<Engine>,
    /// A flush failed, so that the store has to reach the disk before it can be trusted.
    pub(crate) must_flush: bool,
    /// When what is committed has to be flushed, in elapsed milliseconds.
    pub(crate) flush_at: Option<u64>,
    /// The disk is full: until when nothing is written, in elapsed milliseconds, and why.
    pub(crate) full: Option<(u64, Error)>,
}

impl Writer {
    /// Makes a writer with its engine.
    pub(crate) fn start(
        commands: Receiver<Command>,
        folder: Option<(PathBuf, FolderLock)>,
        options: EngineOptions,
        time: Timekeeper,
    ) -> Result<Self> {
        let mut writer = Self {
            commands,
            folder,
            options,
            time,
            engine: None,
            must_flush: false,
            flush_at: None,
            full: None,
        };
        writer.open().map_err(|fault| fault.error)?;
        Ok(writer)
    }

    fn open(&mut self) -> Result<(), StoreFault> {
        let now = self.time.now();
        self.engine = Some(match &self.folder {
            None => Engine::in_memory(self.options, now),
            Some((folder, _)) => Engine::open(folder, self.options, now, self.must_flush)?,
        });
        self.must_flush = false;
        self.flush_at = None;
        Ok(())
    }

    /// Serves until the last command, or until nobody can send one any more.
    pub(crate) fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            let first = match self.commands.recv_timeout(self.pause()) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (waiting, close) = self.drain(first);
            closing = close;
            self.guarded_turn(waiting);
        }
        if let Some(engine) = self.engine.take()
            && let Err(fault) = engine.close(self.time.now())
        {
            tracing::error!(error = ?fault.error, "the store could not be closed cleanly");
        }
        // Whoever closed may open the folder again at once.
        self.folder = None;
        if let Some(closed) = closing {
            let _ = closed.send(());
        }
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let Some(engine) = &self.engine else { return Duration::from_secs(1) };
        let wake = engine.next_wake().min(self.flush_at.unwrap_or(u64::MAX));
        let wake = self.full.as_ref().map_or(wake, |(until, _)| wake.max(*until));
        self.time.sleep_until(wake).min(Duration::from_secs(3_600))
    }

    /// Everything that waits, up to a bound, and whether the end was among it.
    fn drain(&self, first: Option<Command>) -> (Vec<Run>, Option<oneshot::Sender<()>>) {
        let mut waiting = Vec::new();
        let mut waiting_bytes = 0;
        let mut next = first;
        while let Some(command) = next {
            match command {
                Command::Close(closed) => return (waiting, Some(closed)),
                Command::Run(run) => {
                    waiting_bytes += run.bytes;
                    waiting.push(run);
                }
            }
            if waiting.len() >= MAX_COMMANDS || waiting_bytes >= MAX_BYTES {
                break;
            }
            next = self.commands.try_recv().ok();
        }
        (waiting, None)
    }

    /// Runs a turn. One that panics is like a commit that failed: its callers are told, since what
    /// would have answered them is gone, and so is the memory, which may be half changed. The next
    /// turn, a second later at most, builds it again from what the store has.
    fn guarded_turn(&mut self, waiting: Vec<Run>) {
        let commands = waiting.len();
        if catch_unwind(AssertUnwindSafe(|| self.turn(waiting))).is_err() {
            // What it panicked with is left to the panic hook: it may quote an event.
            tracing::error!(commands, "the writer panicked; its memory is built again");
            self.engine = None;
            self.must_flush = true;
        }
    }

    /// Applies what waits, writes it, and answers.
    fn turn(&mut self, waiting: Vec<Run>) {
        let opened = if self.engine.is_none() { self.reopen() } else { Ok(()) };
        let mut turn = Turn::new(self.time.now());
        let mut permits = Vec::with_capacity(waiting.len());
        if self.full.as_ref().is_some_and(|(until, _)| *until <= turn.now.elapsed_ms) {
            self.full = None;
        }
        if let (Some(engine), None) = (&mut self.engine, &self.full) {
            engine.tick(&mut turn);
        }
        for Run { operation, writes, permit, .. } in waiting {
            let refused = match (&opened, &self.full) {
                (Err(fault), _) => Some(fault),
                (Ok(()), Some((_, full))) if writes => Some(full),
                _ => None,
            };
            match (refused, &mut self.engine) {
                (None, Some(engine)) => operation(Ok(engine), &mut turn),
                (Some(fault), _) => operation(Err(fault), &mut turn),
                (None, None) => operation(Err(&dropped()), &mut turn),
            }
            permits.extend(permit);
        }
        self.write(turn);
    }

    /// Writes a turn and answers its callers.
    fn write(&mut self, mut turn: Turn) {
        let written = match &mut self.engine {
            None => Ok(()),
            Some(engine) => {
                engine.finish(&mut turn);
                engine.commit(&turn).and_then(|()| self.flush_when_due(&turn))
            }
        };
        match written {
            Ok(()) => {
                turn.answers.into_iter().for_each(|answer| answer.release());
                if let Some(engine) = &mut self.engine {
                    engine.shrink_tail();
                }
            }
            Err(fault) => self.give_up(turn, &fault),
        }
    }

    /// Under an interval, flushes what was committed when its time has come.
    fn flush_when_due(&mut self, turn: &Turn) -> Result<(), StoreFault> {
        let Durability::DiskInterval { every_ms } = self.options.store.durability else {
            return Ok(());
        };
        let now = turn.now.elapsed_ms;
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            if let Some(engine) = &mut self.engine {
                engine.flush()?;
            }
        } else if !turn.batch.is_empty() && self.flush_at.is_none() {
            self.flush_at = Some(now + every_ms);
        }
        Ok(())
    }

    /// A failed commit: nobody is told of a success. The memory is ahead of the store now, so it is
    /// dropped and built again from what the store has.
    fn give_up(&mut self, turn: Turn, fault: &StoreFault) {
        tracing::error!(
            error = ?fault.error, callers = turn.answers.len(), "a commit failed"
        );
        self.must_flush |= fault.flush_lost;
        for answer in turn.answers {
            answer.fail(&fault.error);
        }
        let now = self.time.now();
        if fault.error.kind() == ErrorKind::StorageFull {
            self.full = Some((now.elapsed_ms + FULL_PAUSE_MS, fault.error.duplicate()));
        }
        // A full disk may not let the store be opened again, and the open one is in order.
        let store = self.engine.take().and_then(Engine::into_store);
        let kept = store.filter(|_| !fault.flush_lost);
        let rebuilt = kept.map(|store| Engine::from_store(store, self.options, now));
        match rebuilt {
            Some(Ok(engine)) => self.engine = Some(engine),
            Some(Err(_)) | None => {
                // Its callers were told; the next ones will be, if it cannot be opened.
                let _ = self.reopen();
            }
        }
    }

    fn reopen(&mut self) -> Result<()> {
        self.open().map_err(|fault| {
            tracing::error!(error = ?fault.error, "the store cannot be opened");
            self.must_flush |= fault.flush_lost;
            fault.error
        })
    }
}

/// What a caller is told whose command was dropped.
pub(crate) fn dropped() -> Error {
    Error::unavailable(
        "the broker's storage failed or was closed; whether the call took effect is unknown",
    )
}

#[cfg(test)]
mod tests {
    use apix::{Broker, Event, Json, Limits, NewEvent, RangeQuery, StreamKey, StreamName};

    use super::*;
    use crate::{EmbeddedBroker, EmbeddedOptions};

    fn stream() -> StreamKey {
        let tenant = apix::TenantContext::trusted("acme").unwrap();
        StreamKey::new(&tenant, StreamName::new("orders").unwrap())
    }

    fn event(n: u32) -> Vec<NewEvent> {
        let event = Event::new("order", Json::parse(n.to_string()).unwrap());
        vec![event.checked(None, &Limits::default()).unwrap()]
    }

    async fn payloads(broker: &EmbeddedBroker) -> Vec<String> {
        let page = broker.read_range(&stream(), &RangeQuery::default()).await.unwrap();
        page.events.iter().map(|event| event.payload.as_str().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_panic_fails_its_turn_alone_and_what_was_answered_stays() {
        let folder = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions::directory(folder.path());
        let broker = EmbeddedBroker::open(options).await.unwrap();
        broker.append(&stream(), event(1)).await.unwrap();
        let (release, held) = std::sync::mpsc::channel();
        // The writer stands still until all of them wait: so they share one turn.
        let hold = broker.client.look(move |_, _| Ok(held.recv().is_ok()));
        let orders = stream();
        let append = broker.append(&orders, event(2));
        let panic =
            broker.client.change(0, |_, _| -> Result<()> { panic!("injected by the test") });
        let (_, appended, panicked, ()) =
            tokio::join!(hold, append, panic, async { release.send(()).unwrap() });
        assert_eq!(appended.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(payloads(&broker).await, ["1"]);
        broker.append(&stream(), event(3)).await.unwrap();
        assert_eq!(payloads(&broker).await, ["1", "3"]);
        broker.close().await;
    }
}
