//! Past events as a stream, a page at a time, as fast as they are wanted or at a given pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::error::Result;
use crate::event::StoredEvent;
use crate::name::StreamKey;
use crate::stream::RangeQuery;

/// What to replay, and how fast.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Which events. `limit` is the size of a page here.
    pub query: RangeQuery,
    /// At most so many events in all (default all).
    pub max_events: Option<u64>,
    /// At most so many events a second (default as fast as they are read).
    pub events_per_second: Option<u32>,
}

impl Default for Replay {
    fn default() -> Self {
        let query = RangeQuery { limit: 500, ..RangeQuery::default() };
        Self { query, max_events: None, events_per_second: None }
    }
}

struct State {
    broker: Arc<dyn Broker>,
    stream: StreamKey,
    query: Option<RangeQuery>,
    page: VecDeque<StoredEvent>,
    left: u64,
    interval: Option<Duration>,
    next_at: Instant,
}

impl State {
    async fn next(&mut self) -> Result<Option<StoredEvent>> {
        while self.page.is_empty() && self.left > 0 {
            let Some(query) = &self.query else { return Ok(None) };
            let page = self.broker.read_range(&self.stream, query).await?;
            self.query = page.more_after.map(|last| query.after(last));
            self.page = page.events.into();
        }
        if self.left == 0 {
            return Ok(None);
        }
        if let Some(interval) = self.interval {
            tokio::time::sleep_until(self.next_at).await;
            // Time lost in reading a page is not made up for: the pace is an upper bound.
            self.next_at = self.next_at.max(Instant::now()) + interval;
        }
        self.left -= 1;
        Ok(self.page.pop_front())
    }
}

/// The events of `request`. The stream ends after the first error.
pub(crate) fn replay(
    broker: Arc<dyn Broker>,
    stream_key: StreamKey,
    request: Replay,
) -> impl Stream<Item = Result<StoredEvent>> + Send {
    let state = State {
        broker,
        stream: stream_key,
        query: Some(request.query),
        page: VecDeque::new(),
        left: request.max_events.unwrap_or(u64::MAX),
        interval: request.events_per_second.map(|rate| Duration::from_secs(1) / rate.max(1)),
        next_at: Instant::now(),
    };
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(state))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}
