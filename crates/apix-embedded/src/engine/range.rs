//! Finding a range of past events.

use apix::{MessageId, RangeQuery, Result, StreamKey};

use super::state::Engine;
use crate::waiting::{Found, FoundIn};

/// A page brings no more than this at once, but at least one event.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// What was looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) found: FoundIn,
    /// The last id of it, if there is more beyond.
    pub(crate) more_after: Option<MessageId>,
}

impl Engine {
    /// The next `most` events of a range, filters aside.
    pub(crate) fn read_range(
        &self,
        key: &StreamKey,
        query: &RangeQuery,
        most: usize,
    ) -> Result<Looked> {
        let stream = self.stream(key)?;
        let (first, end) = (stream.first_from(query.from), stream.first_after(query.to));
        let mut looked = Looked {
            found: FoundIn {
                tenant: stream.tenant.clone(),
                stream: stream.name.clone(),
                events: Vec::new(),
            },
            more_after: None,
        };
        let descending = query.order == apix::Order::Descending;
        let mut bytes = 0;
        for step in 0..end.saturating_sub(first) {
            let index = if descending { end - 1 - step } else { first + step };
            let (Some(slot), Some(source)) = (stream.slot(index), stream.source(index)) else {
                break;
            };
            if looked.found.events.len() >= most || bytes >= MAX_PAGE_BYTES {
                looked.more_after = looked.found.events.last().map(|last| last.id);
                break;
            }
            bytes += slot.bytes as usize;
            looked.found.events.push(Found { id: slot.id(), source });
        }
        Ok(looked)
    }
}
