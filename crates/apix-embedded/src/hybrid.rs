//! A hybrid event is shown by the writer when its commit is written: in the order of its stream,
//! and never before.

use std::sync::Arc;

use apix::{ChannelKey, Error, HybridAppended, Message, NewEvent, Origin, Result};
use tokio::sync::oneshot;

use crate::engine::Answer;
use crate::fanout::Fanout;

/// A hybrid event that waits for its commit.
pub(crate) struct Shown {
    pub(crate) sender: oneshot::Sender<Result<HybridAppended>>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) channel: ChannelKey,
    pub(crate) event: NewEvent,
    pub(crate) origin: Origin,
}

impl Answer for Shown {
    fn release(self: Box<Self>) {
        let Self { sender, fanout, channel, event, origin } = *self;
        let message_id = origin.message_id;
        let count = fanout.publish(&channel, || Message::of_event(&channel, &event, origin));
        // Whoever no longer waits: the event is stored and shown all the same.
        let _ = sender.send(Ok(HybridAppended {
            message_id,
            repeated: false,
            subscriber_count: Some(count),
        }));
    }

    fn fail(self: Box<Self>, error: &Error) {
        let _ = self.sender.send(Err(error.duplicate()));
    }
}
