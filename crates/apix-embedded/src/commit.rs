//! Group commit: the writer thread takes all commands that wait, applies them in memory, writes one
//! transaction, flushes once, and only then answers everybody.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use apix::{Durability, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::clock::Timekeeper;
use crate::engine::{Engine, EngineOptions, Turn};
use crate::lock::FolderLock;
use crate::store::StoreFault;

/// The most commands in one commit.
const MAX_COMMANDS: usize = 1_024;
/// The most event bytes in one commit, the last command aside.
const MAX_BYTES: usize = 4 << 20;

/// What the writer does for a caller.
pub(crate) type Operation = Box<dyn FnOnce(&mut Engine, &mut Turn) + Send>;

/// An operation with its part of the bytes that may wait.
type Waiting = (Operation, Option<OwnedSemaphorePermit>);

/// What a caller asks of the writer.
pub(crate) enum Command {
    /// One operation of the broker.
    Run {
        /// What to do.
        operation: Operation,
        /// Event bytes in it.
        bytes: usize,
        /// Its part of the bytes that may wait.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// The last one.
    Close(oneshot::Sender<()>),
}

/// The writer thread.
pub(crate) struct Writer {
    pub(crate) commands: Receiver<Command>,
    pub(crate) folder: Option<(PathBuf, FolderLock)>,
    pub(crate) durability: Durability,
    pub(crate) options: EngineOptions,
    pub(crate) time: Timekeeper,
    /// None: the store failed and could not be opened again yet.
    pub(crate) engine: Option<Engine>,
    /// A flush failed, so that the store has to reach the disk before it can be trusted.
    pub(crate) must_flush: bool,
    /// When what is committed has to be flushed, in elapsed milliseconds.
    pub(crate) flush_at: Option<u64>,
}

impl Writer {
    /// Makes a writer with its engine.
    pub(crate) fn start(
        commands: Receiver<Command>,
        folder: Option<(PathBuf, FolderLock)>,
        durability: Durability,
        options: EngineOptions,
        time: Timekeeper,
    ) -> Result<Self> {
        let mut writer = Self {
            commands,
            folder,
            durability,
            options,
            time,
            engine: None,
            must_flush: false,
            flush_at: None,
        };
        writer.open().map_err(|fault| fault.error)?;
        Ok(writer)
    }

    fn open(&mut self) -> Result<(), StoreFault> {
        let now = self.time.now();
        self.engine = Some(match &self.folder {
            None => Engine::in_memory(self.options, now),
            Some((folder, _)) => {
                Engine::open(folder, self.durability, self.options, now, self.must_flush)?
            }
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
            self.turn(waiting);
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
        self.time.sleep_until(wake).min(Duration::from_secs(3_600))
    }

    /// Everything that waits, up to a bound, and whether the end was among it.
    fn drain(&self, first: Option<Command>) -> (Vec<Waiting>, Option<oneshot::Sender<()>>) {
        let mut waiting = Vec::new();
        let mut waiting_bytes = 0;
        let mut next = first;
        while let Some(command) = next {
            match command {
                Command::Close(closed) => return (waiting, Some(closed)),
                Command::Run { operation, bytes, permit } => {
                    waiting.push((operation, permit));
                    waiting_bytes += bytes;
                }
            }
            if waiting.len() >= MAX_COMMANDS || waiting_bytes >= MAX_BYTES {
                break;
            }
            next = self.commands.try_recv().ok();
        }
        (waiting, None)
    }

    /// Applies what waits, writes it, and answers.
    fn turn(&mut self, waiting: Vec<Waiting>) {
        if self.engine.is_none() && !self.reopen() {
            // Dropping an operation tells its caller that the broker is unavailable.
            return;
        }
        let Some(engine) = &mut self.engine else { return };
        let mut turn = Turn::new(self.time.now());
        engine.tick(&mut turn);
        let mut permits = Vec::with_capacity(waiting.len());
        for (operation, permit) in waiting {
            operation(engine, &mut turn);
            permits.extend(permit);
        }
        engine.finish(&mut turn);
        let written = engine.commit(&turn).and_then(|()| self.flush_when_due(&turn));
        match written {
            Ok(()) => {
                turn.answers.into_iter().for_each(|answer| answer.release());
                if let Some(engine) = &mut self.engine {
                    engine.shrink_tail();
                }
            }
            Err(fault) => self.give_up(turn, fault),
        }
    }

    /// Under an interval, flushes what was committed when its time has come.
    fn flush_when_due(&mut self, turn: &Turn) -> Result<(), StoreFault> {
        let Durability::DiskInterval { every_ms } = self.durability else { return Ok(()) };
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
    fn give_up(&mut self, turn: Turn, fault: StoreFault) {
        tracing::error!(
            error = ?fault.error, callers = turn.answers.len(),
            "a commit failed; the store is opened again"
        );
        self.must_flush |= fault.flush_lost;
        self.engine = None;
        for answer in turn.answers {
            answer.fail(&fault.error);
        }
        self.reopen();
    }

    fn reopen(&mut self) -> bool {
        match self.open() {
            Ok(()) => {
                tracing::info!("the store is open again");
                true
            }
            Err(fault) => {
                tracing::error!(error = ?fault.error, "the store cannot be opened");
                self.must_flush |= fault.flush_lost;
                false
            }
        }
    }
}

/// What a caller is told whose command was dropped.
pub(crate) fn dropped() -> Error {
    Error::unavailable(
        "the broker's storage failed or was closed; whether the call took effect is unknown",
    )
}
