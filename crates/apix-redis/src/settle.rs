//! Acknowledging, rejecting, giving up and extending deliveries.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// A receipt with less than this left of its lease is checked.
const SURE_FOR: Duration = Duration::from_millis(20);

impl Shared {
    pub(crate) async fn acknowledge(
        &self,
        group: &GroupKey,
        receipts: &[Receipt],
    ) -> Result<Acknowledged> {
        let local = self.local_group(group);
        let now = Instant::now();
        let (mut sure, mut doubtful) = (Vec::new(), Vec::new());
        for receipt in receipts {
            if is_sure(receipt, now) { sure.push(receipt) } else { doubtful.push(receipt) }
        }
        let mut done = Acknowledged::default();
        if !sure.is_empty() {
            done.count = self.acknowledge_plain(&local, &sure).await?;
            if done.count < sure.len() as u64 {
                // Some are copies beside the stream, or were not pending.
                self.acknowledge_checked(&local, &sure, &mut done).await?;
            }
        }
        if !doubtful.is_empty() {
            self.acknowledge_checked(&local, &doubtful, &mut done).await?;
            done.lease_lost.extend(on_partitions(&doubtful));
        }
        Ok(done)
    }

    /// One XACK; and, for what may have been tried before, no more memory of that.
    async fn acknowledge_plain(&self, local: &LocalGroup, receipts: &[&Receipt]) -> Result<u64> {
        let ids: Vec<String> = ids(receipts);
        let mut tried: Vec<&str> = Vec::new();
        for (receipt, id) in receipts.iter().zip(&ids) {
            let count = receipt.holder.as_ref().and_then(|holder| holder.delivery_count);
            if count != Some(1) {
                tried.push(id);
            }
        }
        let mut pipeline = Pipeline::default();
        push_with_ids(&mut pipeline, &["XACK", local.keys.stream(), local.name.as_str()], &ids);
        if !tried.is_empty() {
            pipeline.push(&["EXISTS", local.keys.attempts()]);
        }
        let link = self.link(local.keys.stream());
        let replies = link.call(pipeline).await?;
        let acknowledged = replies.first().ok_or_else(|| malformed("no reply"))?.cursor()?.int()?;
        let acknowledged =
            u64::try_from(acknowledged).map_err(|_| malformed("a negative count"))?;
        // Of what was not pending, it may still be needed.
        let any_tried = replies.get(1).is_some_and(|exists| exists.0 == ":1\r\n");
        if any_tried && acknowledged == receipts.len() as u64 {
            let mut pipeline = Pipeline::default();
            push_with_ids(&mut pipeline, &["HDEL", local.keys.attempts()], &tried);
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
        let receipts: Vec<_> =
            receipts.iter().filter(|receipt| receipt.message_id.partition.is_none()).collect();
        for receipt in &receipts {
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

/// Whether the holder need not be checked: anyone will do, or it is sure to hold.
fn is_sure(receipt: &Receipt, now: Instant) -> bool {
    receipt.message_id.partition.is_none()
        && match &receipt.holder {
            None => true,
            Some(holder) => holder.held_until.is_some_and(|until| until > now + SURE_FOR),
        }
}

/// Streams have no partitions here, so nobody holds an event of one.
fn on_partitions<'a>(receipts: &'a [&Receipt]) -> impl Iterator<Item = MessageId> + 'a {
    receipts
        .iter()
        .filter(|receipt| receipt.message_id.partition.is_some() && receipt.holder.is_some())
        .map(|receipt| receipt.message_id)
}

fn ids(receipts: &[&Receipt]) -> Vec<String> {
    receipts.iter().map(|receipt| id_text(receipt.message_id)).collect()
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
    let count = holder.and_then(|holder| holder.delivery_count);
    arguments.push(count.map(|count| count.to_string()).unwrap_or_default());
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
