//! One turn of the writer: what it changed, and who waits for that.

use apix::{Error, Result};
use tokio::sync::oneshot;

use crate::clock::Now;
use crate::group::GroupNo;
use crate::store::Batch;

/// Somebody who is answered when the turn is written, or when that failed.
pub(crate) trait Answer: Send {
    /// The turn is as safe as was asked for.
    fn release(self: Box<Self>);
    /// It is not.
    fn fail(self: Box<Self>, error: &Error);
}

/// One turn of the writer.
pub(crate) struct Turn {
    pub(crate) now: Now,
    pub(crate) batch: Batch,
    pub(crate) answers: Vec<Box<dyn Answer>>,
    /// Groups that something happened to.
    pub(crate) touched: Vec<GroupNo>,
    /// Positions of events that are gone.
    pub(crate) released_positions: Vec<u64>,
    /// Rows of idempotency keys that are gone, once for each key.
    pub(crate) released_keys: Vec<u64>,
}

impl Turn {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            now,
            batch: Batch::default(),
            answers: Vec::new(),
            touched: Vec::new(),
            released_positions: Vec::new(),
            released_keys: Vec::new(),
        }
    }

    /// Answers `value` through `sender` when the turn is written.
    pub(crate) fn answer<T: Send + 'static>(
        &mut self,
        sender: oneshot::Sender<Result<T>>,
        value: Result<T>,
    ) {
        self.answers.push(Box::new(Plain { sender, value }));
    }
}

struct Plain<T> {
    sender: oneshot::Sender<Result<T>>,
    value: Result<T>,
}

impl<T: Send> Answer for Plain<T> {
    fn release(self: Box<Self>) {
        // Whoever no longer waits has its answer all the same: the operation is done.
        let _ = self.sender.send(self.value);
    }

    fn fail(self: Box<Self>, error: &Error) {
        let _ = self.sender.send(Err(error.duplicate()));
    }
}
