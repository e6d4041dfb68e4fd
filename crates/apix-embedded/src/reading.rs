//! Reading: what the writer has found becomes pages, deliveries and dead letters in the caller's
//! task, so that decoding and old events cost the writer nothing.

use apix::{
    ConsumerName, DeadLetter, DeadLetterChoice, Delivery, Error, ErrorKind, GroupKey, MessageId,
    RangePage, RangeQuery, Result, StoredEvent, StreamKey,
};

use crate::broker::EmbeddedBroker;
use crate::engine::{Chosen, DonePart, Engine, FoundDead, Looked, Turn};
use crate::fetch::{Fetched, dead_letter, fetch};
use crate::store::Wanted;
use crate::waiting::{FoundIn, Handed};

/// A filtered range looks at so many events at a time,
const FILTERED_STEP: usize = 1_000;
/// and at no more than this before it returns what it has.
const FILTERED_MOST: usize = 20_000;

impl EmbeddedBroker {
    /// One page of a range.
    pub(crate) async fn page(&self, stream: &StreamKey, query: &RangeQuery) -> Result<RangePage> {
        let filtered = query.event_type.is_some() || query.channel.is_some();
        let limit = query.limit.max(1);
        let step = if filtered { FILTERED_STEP } else { limit };
        let mut page = RangePage::default();
        let mut rest = query.clone();
        let (mut looked_at, mut bytes) = (0, 0);
        loop {
            let (key, part) = (stream.clone(), rest.clone());
            let look = self.client.look(move |engine, _| engine.read_range(&key, &part, step));
            let Looked { found, more_after } = look.await?;
            looked_at += found.events.len();
            let mut events = self.fetch(stream, found).await?.into_iter();
            while let Some(event) = events.next() {
                match event {
                    Ok(event) if query.takes(&event) => {
                        bytes += event.payload.len();
                        page.events.push(event);
                    }
                    Ok(_) => {}
                    // Trimmed since it was found.
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    Err(fault) => return Err(fault),
                }
                if query.is_full(&page.events, bytes) {
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

    /// A page of dead letters.
    pub(crate) async fn letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let key = group.clone();
        let find = self.client.look(move |engine, _| engine.dead_letters(&key, after, limit));
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
            if let Some(data) = data {
                found.push(dead_letter(group, id, data)?);
            }
        }
        Ok(found)
    }

    /// Does something with dead letters, some at a time: each part is done or not, and no part
    /// holds up the writer for long.
    pub(crate) async fn in_parts(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
        part: fn(&mut Engine, &mut Turn, &GroupKey, &Chosen) -> Result<DonePart>,
    ) -> Result<u64> {
        let mut chosen = Chosen { which: which.clone(), after: None };
        let mut count = 0;
        loop {
            let (group, next) = (group.clone(), chosen.clone());
            let done = self
                .client
                .change(0, move |engine, turn| part(engine, turn, &group, &next))
                .await?;
            count += done.count;
            match done.more_after {
                Some(last) => chosen.after = Some(last),
                None => return Ok(count),
            }
        }
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
                    let lost = self.client.look(move |engine, _| Ok(engine.should_have(&key, id)));
                    Err(lost.await?.unwrap_or_else(|| Error::not_found("the event was removed")))
                }
            });
        }
        Ok(events)
    }

    pub(crate) async fn deliveries(
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
}
