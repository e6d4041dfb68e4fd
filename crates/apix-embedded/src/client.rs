//! The callers' end of the writer thread.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use apix::{Error, Result};
use tokio::sync::{Semaphore, oneshot};

use crate::clock::Now;
use crate::commit::{Command, Operation, Run, dropped};
use crate::engine::{Engine, Turn};

/// Sends operations to the writer and waits for their answers.
pub(crate) struct Client {
    commands: Sender<Command>,
    /// Bytes of events that may still be sent before others are written.
    room: Arc<Semaphore>,
    room_bytes: usize,
}

impl Client {
    /// A client of the writer that `commands` go to; at most `room_bytes` of events wait for it.
    pub(crate) fn new(commands: Sender<Command>, room_bytes: usize) -> Self {
        let room_bytes = room_bytes.clamp(1, u32::MAX as usize);
        Self { commands, room: Arc::new(Semaphore::new(room_bytes)), room_bytes }
    }

    /// Lets the writer look something up.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Now) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let run = move |engine: &mut Engine, turn: &mut Turn| look(engine, turn.now);
        self.call(0, false, run).await
    }

    /// Lets the writer change something; the answer comes when that is as safe as the durability
    /// says. `bytes` of events are in it.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        bytes: usize,
        change: impl FnOnce(&mut Engine, &mut Turn) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(bytes, true, change).await
    }

    pub(crate) async fn call<T: Send + 'static>(
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

    pub(crate) async fn send(
        &self,
        bytes: usize,
        writes: bool,
        operation: Operation,
    ) -> Result<()> {
        let permit = if bytes == 0 {
            None
        } else {
            let part = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.room).acquire_many_owned(part).await;
            Some(permit.map_err(|_| dropped())?)
        };
        let command = Command::Run(Run { operation, writes, bytes, permit });
        self.commands.send(command).map_err(|_| Error::unavailable("the broker is closed"))
    }

    /// Lets the writer finish what it was sent, and end.
    pub(crate) async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.commands.send(Command::Close(closed)).is_ok() {
            let _ = done.await;
        }
    }
}
