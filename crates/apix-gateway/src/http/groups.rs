//! Consumer groups: reading and settling events, and the groups themselves.

use std::time::{Duration, Instant};

use apix::messaging::{DEFAULT_BATCH_SIZE, MAX_READ_WAIT, lease_lost};
use apix::{
    Acknowledged, Action, ConsumerName, Delivery, ErrorKind, GroupSettings, Holder, MessageId,
    ReadRequest, Receipt, SeekTo, Settled, Settlement, Timestamp,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::json;

use super::answer;
use super::body::Upload;
use super::params::{InGroup, InStream};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::forms::parse;
use crate::gateway::Gateway;

const DEFAULT_WAIT_MS: u64 = 1_000;
const NO_REASON: &str = "rejected without a reason";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReadForm {
    consumer: ByteString,
    count: Option<usize>,
    wait_ms: Option<u64>,
}

/// Hands out events. A client that goes away ends the read; what it was handed comes back after
/// its lease. The end of the server ends it too, with an empty list.
pub(super) async fn read(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::StreamsRead, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: ReadForm = parse("the body", &document)?;
    let wait_ms = form.wait_ms.unwrap_or(DEFAULT_WAIT_MS);
    let wait = Duration::from_millis(wait_ms);
    if wait > MAX_READ_WAIT {
        return Err(ApiError::invalid(format!(
            "waitMs is {wait_ms}; it is at most {}",
            MAX_READ_WAIT.as_millis()
        )));
    }
    let batch_size = form.count.unwrap_or(DEFAULT_BATCH_SIZE);
    let request = ReadRequest { group, batch_size, wait };
    let deliveries = read_in_turns(&gateway, &caller, stream.as_str(), &form.consumer, request);
    let deliveries = deliveries.await?;
    let mut out = answer::list("events", &deliveries, Delivery::write_json);
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

/// How long one turn of a waiting read is: at a shutdown a read ends within it.
const TURN: Duration = Duration::from_secs(1);

/// Reads until there is something, the wait is over, or the server stops. A turn is never cut off:
/// what it had been handed would be held by nobody until the lease ends.
async fn read_in_turns(
    gateway: &Gateway,
    caller: &Caller,
    stream: &str,
    consumer: &str,
    request: ReadRequest,
) -> Result<Vec<Delivery>, ApiError> {
    let until = Instant::now() + request.wait;
    loop {
        let wait = until.saturating_duration_since(Instant::now()).min(TURN);
        let turn = ReadRequest { wait, ..request.clone() };
        let read = gateway.service().read_group(&caller.ctx, stream, consumer, turn);
        let deliveries = gateway.within_after(wait, read).await?;
        let over = gateway.draining().is_cancelled() || Instant::now() >= until;
        if over || !deliveries.is_empty() {
            return Ok(deliveries);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AckForm {
    message_ids: Vec<MessageId>,
    consumer: Option<ByteString>,
}

pub(super) async fn acknowledge(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::StreamsRead, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: AckForm = parse("the body", &document)?;
    let consumer = form.consumer.map(ConsumerName::new).transpose()?;
    let receipts = receipts(form.message_ids, consumer.as_ref());
    let service = gateway.service();
    let done = service.acknowledge_events(&caller.ctx, stream.as_str(), group, &receipts);
    let Acknowledged { count, lease_lost: lost } = gateway.within(done).await?;
    settled("acknowledged", count, &lost)
}

fn receipts(ids: Vec<MessageId>, consumer: Option<&ConsumerName>) -> Vec<Receipt> {
    let holder = consumer.map(|consumer| Holder {
        consumer: consumer.clone(),
        delivery_count: None,
        held_until: None,
    });
    ids.into_iter().map(|message_id| Receipt { message_id, holder: holder.clone() }).collect()
}

/// How many were settled, and which were lost; an error if all that happened is that some were
/// lost.
fn settled(what: &str, count: u64, lost: &[MessageId]) -> Result<Response, ApiError> {
    match lost.first() {
        Some(first) if count == 0 => Err(lease_lost(*first).into()),
        None => answer::encoded(&json!({ what: count })),
        Some(_) => answer::encoded(&json!({ what: count, "leaseLost": lost })),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RejectForm {
    message_id: MessageId,
    consumer: ByteString,
    delivery_count: u32,
    reason: Option<ByteString>,
    retry_after_ms: Option<u64>,
    dead_letter: Option<bool>,
}

impl RejectForm {
    fn settlement(&self) -> Result<Settlement, ApiError> {
        let reason = self.reason.clone().unwrap_or(ByteString::from_static(NO_REASON));
        match (self.dead_letter.unwrap_or(false), self.retry_after_ms) {
            (true, Some(_)) => Err(ApiError::invalid(
                "retryAfterMs and deadLetter exclude each other; give one of them, or neither for \
                 the group's back-off",
            )),
            (true, None) => Ok(Settlement::DeadLetter { reason }),
            (false, after) => {
                Ok(Settlement::Retry { after: after.map(Duration::from_millis), reason })
            }
        }
    }
}

pub(super) async fn reject(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::StreamsRead, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: RejectForm = parse("the body", &document)?;
    let holder = Holder {
        consumer: ConsumerName::new(form.consumer.clone())?,
        delivery_count: Some(form.delivery_count),
        held_until: None,
    };
    let receipt = Receipt { message_id: form.message_id, holder: Some(holder) };
    let settlement = form.settlement()?;
    let service = gateway.service();
    let done = service.reject_event(&caller.ctx, stream.as_str(), group, receipt, settlement);
    match gateway.within(done).await? {
        Settled::RetryAt(at) | Settled::HeldUntil(at) => {
            answer::encoded(&json!({ "retryAt": Timestamp::from_system_time(at).as_str() }))
        }
        Settled::DeadLettered => answer::encoded(&json!({ "deadLettered": true })),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtendForm {
    message_ids: Vec<MessageId>,
    consumer: ByteString,
    lease_ms: u64,
}

pub(super) async fn extend(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::StreamsRead, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: ExtendForm = parse("the body", &document)?;
    let consumer = ConsumerName::new(form.consumer)?;
    let receipts = receipts(form.message_ids.clone(), Some(&consumer));
    let lease = Duration::from_millis(form.lease_ms);
    let service = gateway.service();
    let done = service.extend_lease(&caller.ctx, stream.as_str(), group, receipts, lease);
    let (mut count, mut lost) = (0, Vec::new());
    for (id, result) in form.message_ids.into_iter().zip(gateway.within(done).await?) {
        match result {
            Ok(_) => count += 1,
            Err(fault) if fault.kind() == ErrorKind::LeaseLost => lost.push(id),
            Err(fault) => return Err(fault.into()),
        }
    }
    settled("extended", count, &lost)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekForm {
    to: ByteString,
}

pub(super) async fn seek(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::GroupsManage, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let form: SeekForm = parse("the body", &document)?;
    let to = seek_to(&form.to)?;
    let done = gateway.service().seek_group(&caller.ctx, stream.as_str(), group, to);
    gateway.within(done).await?;
    Ok(answer::done())
}

fn seek_to(text: &ByteString) -> Result<SeekTo, ApiError> {
    if let Ok(id) = text.parse() {
        return Ok(SeekTo::Id(id));
    }
    match (&**text, Timestamp::parse(text.clone())) {
        ("start", _) => Ok(SeekTo::Start),
        ("end", _) => Ok(SeekTo::End),
        (_, Ok(time)) => {
            let since = Duration::from_millis(time.unix_ms());
            Ok(SeekTo::Time(std::time::SystemTime::UNIX_EPOCH + since))
        }
        (other, Err(_)) => Err(ApiError::invalid(format!(
            "to is {other:?}; it is \"start\", \"end\", an id such as 1764000000000-0, or a time \
             such as 2026-11-24T06:29:30Z"
        ))),
    }
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
) -> Result<Response, ApiError> {
    let stats = gateway.service().stream_stats(&caller.ctx, stream.as_str());
    let stats = gateway.within(stats).await?;
    answer::encoded(&json!({ "groups": stats.groups }))
}

pub(super) async fn stats(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
) -> Result<Response, ApiError> {
    let stats = gateway.service().group_stats(&caller.ctx, stream.as_str(), group);
    answer::encoded(&gateway.within(stats).await?)
}

/// Replaces all settings: what the body leaves out gets its default.
pub(super) async fn configure(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
    upload: Upload,
) -> Result<Response, ApiError> {
    caller.ctx.require(Action::GroupsManage, stream.as_str())?;
    let document = upload.json(&gateway).await?;
    let settings: GroupSettings = parse("the body", &document)?;
    let service = gateway.service();
    let done = service.configure_group(&caller.ctx, stream.as_str(), group, settings.clone());
    gateway.within(done).await?;
    answer::encoded(&settings)
}

pub(super) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    InGroup { stream, group }: InGroup,
) -> Result<Response, ApiError> {
    let done = gateway.service().delete_group(&caller.ctx, stream.as_str(), group);
    gateway.within(done).await?;
    Ok(answer::done())
}
