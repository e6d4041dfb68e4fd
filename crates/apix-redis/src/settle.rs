//! Acknowledging, rejecting, giving up and extending deliveries.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apix::dead_letter::kept_reason;
use apix::{
    Acknowledged, Error, ErrorKind, GroupKey, MessageId, Receipt, Result, Settled, Settlement,
};

use crate::error::malformed;
use crate::local::LocalGroup;
use crate::resp::{Raw, Reply};
use crate::scripts::{Script, is_unknown};
use crate::shared::Shared;
use crate::wire::{Arguments, Pipeline, id_text};

/// An event whose retry is later than this is copied beside the stream and acknowledged there, so
/// that it does not pin retention.
const PINS_AT_MOST: Duration = Duration::from_secs(60);

/// The longest delay or lease that is taken as it is; what is longer is this long.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Receipts that one call of a script settles.
const PAGE: usize = 1_000;

impl Shared {
    /// Whose delivery it is is always checked where it is acknowledged: that it was held a moment
    /// ago says nothing, as a seek, a retry or a shorter lease may have come in between.
    pub(crate) async fn acknowledge(
        &self,
        group: &GroupKey,
        receipts: &[Receipt],
    ) -> Result<Acknowledged> {
        let local = self.local_group(group);
        let mut done = Acknowledged::default();
        let mut anyones = Vec::new();
        let mut held: BTreeMap<&str, Vec<&Receipt>> = BTreeMap::new();
        for receipt in receipts {
            match (&receipt.holder, receipt.message_id.partition) {
                (Some(holder), None) => {
                    held.entry(holder.consumer.as_str()).or_default().push(receipt);
                }
                // Streams have no partitions here, so nobody holds an event of one.
                (Some(_), Some(_)) => done.lease_lost.push(receipt.message_id),
                (None, None) => anyones.push(receipt),
                (None, Some(_)) => {}
            }
        }
        for (consumer, mut receipts) in held {
            receipts.sort_by_key(|receipt| receipt.message_id);
            for receipts in receipts.chunks(PAGE) {
                self.acknowledge_held(&local, consumer, receipts, &mut done).await?;
            }
        }
        if !anyones.is_empty() {
            let count = self.acknowledge_plain(&local, &anyones).await?;
            done.count += count;
            if count < anyones.len() as u64 {
                // Some are copies beside the stream, or were not pending.
                self.acknowledge_checked(&local, &anyones, &mut done).await?;
            }
        }
        Ok(done)
    }

    /// What this consumer holds, in the order of ids. Of what it does not, it is found out why.
    async fn acknowledge_held(
        &self,
        local: &LocalGroup,
        consumer: &str,
        receipts: &[&Receipt],
        done: &mut Acknowledged,
    ) -> Result<()> {
        let mut arguments = Arguments::with_keys(&[local.keys.stream(), local.keys.attempts()])
            .and(local.name.as_str())
            .and(consumer);
        for receipt in receipts {
            arguments.push(id_text(receipt.message_id));
            arguments.push(count_text(receipt));
        }
        let reply = self.group_script(&self.scripts.confirm, local, &arguments).await?.reply()?;
        let [count, rest @ ..] = reply.array() else { return Err(malformed("no count")) };
        done.count += count.count().ok_or_else(|| malformed("no count"))?;
        let place = |place: &Reply| receipts.get(usize::try_from(place.count()?).ok()?).copied();
        let rest: Vec<&Receipt> = rest.iter().filter_map(place).collect();
        if rest.is_empty() { Ok(()) } else { self.acknowledge_checked(local, &rest, done).await }
    }

    /// Whoever holds them: one XACK, and no more memory of what was tried before.
    async fn acknowledge_plain(&self, local: &LocalGroup, receipts: &[&Receipt]) -> Result<u64> {
        let ids: Vec<String> = receipts.iter().map(|receipt| id_text(receipt.message_id)).collect();
        let mut pipeline = Pipeline::default();
        push_with_ids(&mut pipeline, &["XACK", local.keys.stream(), local.name.as_str()], &ids);
        pipeline.push(&["EXISTS", local.keys.attempts()]);
        let link = self.link(local.keys.stream());
        let replies = link.call(pipeline).await?;
        let acknowledged = replies.first().ok_or_else(|| malformed("no reply"))?.cursor()?.int()?;
        let acknowledged =
            u64::try_from(acknowledged).map_err(|_| malformed("a negative count"))?;
        // Of what was not pending, it may still be needed.
        let any_tried = replies.get(1).is_some_and(|exists| exists.0 == ":1\r\n");
        if any_tried && acknowledged == receipts.len() as u64 {
            let mut pipeline = Pipeline::default();
            push_with_ids(&mut pipeline, &["HDEL", local.keys.attempts()], &ids);
            link.call(pipeline).await?;
        }
        Ok(acknowledged)
    }

    async fn acknowledge_checked(
        &self,
        local: &LocalGroup,
        receipts: &[&Receipt],
        done: &mut Acknowledged,
    ) -> Result<()> {
        let mut arguments = Self::group_arguments(local, "");
        for receipt in receipts {
            push_receipt(&mut arguments, receipt);
        }
        let script = &self.scripts.acknowledge;
        let results = self.group_script(script, local, &arguments).await?.reply()?;
        for (receipt, result) in receipts.iter().zip(results.array()) {
            match result.int() {
                Some(1) => done.count += 1,
                Some(-1) => done.lease_lost.push(receipt.message_id),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) async fn settle(
        &self,
        group: &GroupKey,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Result<Settled>>> {
        let local = self.local_group(group);
        let calls: Vec<(&Script, Arguments)> = settlements
            .iter()
            .map(|(receipt, settlement)| self.settlement(&local, receipt, settlement))
            .collect();
        let mut pipeline = Pipeline::default();
        for (script, arguments) in &calls {
            pipeline.push_written(&script.by_digest(arguments));
        }
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let link = self.link(local.keys.stream());
        let replies = link.call(pipeline).await?;
        let mut results = Vec::with_capacity(calls.len());
        for (((script, arguments), raw), (receipt, _)) in
            calls.iter().zip(replies).zip(&settlements)
        {
            let raw = if is_unknown(&raw) {
                script.run_by_source(link, arguments).await
            } else {
                Ok(raw)
            };
            results.push(raw.and_then(|raw| settled(&local, receipt.message_id, &raw)));
        }
        Ok(results)
    }

    fn settlement(
        &self,
        local: &LocalGroup,
        receipt: &Receipt,
        settlement: &Settlement,
    ) -> (&Script, Arguments) {
        let mut arguments = Self::group_arguments(local, "");
        push_receipt(&mut arguments, receipt);
        let (verdict, delay, reason) = match settlement {
            Settlement::Extend { lease } => {
                arguments.push(milliseconds((*lease).max(Duration::from_millis(1))));
                return (&self.scripts.extend, arguments);
            }
            Settlement::Retry { after, reason } => {
                let delay = after.map(milliseconds).unwrap_or_default();
                ("retry", delay, reason)
            }
            Settlement::DeadLetter { reason } => ("dead", String::new(), reason),
        };
        arguments.push(verdict);
        arguments.push(delay);
        arguments.push(&*kept_reason(reason));
        // Without randomness the delay is the full one.
        let random = getrandom::u32().map_or(0.0, |bits| f64::from(bits) / f64::from(u32::MAX));
        arguments.push(random.to_string());
        arguments.push(PINS_AT_MOST.as_millis().to_string());
        (&self.scripts.settle, arguments)
    }
}

fn milliseconds(duration: Duration) -> String {
    duration.min(LONGEST).as_millis().to_string()
}

fn push_with_ids(pipeline: &mut Pipeline, command: &[&str], ids: &[impl AsRef<[u8]>]) {
    pipeline.begin(command.len() + ids.len());
    for part in command {
        pipeline.part(part);
    }
    for id in ids {
        pipeline.part(id);
    }
}

/// Id, consumer and delivery count; empty for any.
fn push_receipt(arguments: &mut Arguments, receipt: &Receipt) {
    let holder = receipt.holder.as_ref();
    let id = match receipt.message_id.partition {
        None => id_text(receipt.message_id),
        // Above every event that there is.
        Some(_) => id_text(MessageId::MAX),
    };
    arguments.push(id);
    arguments.push(holder.map_or("", |holder| holder.consumer.as_str()));
    arguments.push(count_text(receipt));
}

fn count_text(receipt: &Receipt) -> String {
    let count = receipt.holder.as_ref().and_then(|holder| holder.delivery_count);
    count.map(|count| count.to_string()).unwrap_or_default()
}

fn settled(local: &LocalGroup, id: MessageId, raw: &Raw) -> Result<Settled> {
    let reply = raw.reply()?;
    let parts = reply.array();
    let time = || {
        let ms = parts.get(1).and_then(Reply::count).ok_or_else(|| malformed("no time"))?;
        Ok::<_, Error>(UNIX_EPOCH + Duration::from_millis(ms))
    };
    match parts.first().and_then(Reply::utf8) {
        Some("at") => {
            let delay = parts.get(2).and_then(Reply::count).unwrap_or_default();
            local.hear_due(Duration::from_millis(delay));
            let at: SystemTime = time()?;
            Ok(Settled::RetryAt(at))
        }
        Some("dead") => Ok(Settled::DeadLettered),
        Some("held") => time().map(Settled::HeldUntil),
        Some("lost") => Err(Error::new(
            ErrorKind::LeaseLost,
            format!("the delivery of {id} is no longer held by this consumer; read again"),
        )),
        _ => Err(malformed("an unknown outcome")),
    }
}
