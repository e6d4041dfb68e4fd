//! Tickets: a live connection for clients that can send no header, by something that may stand in
//! an address, because it is worth nothing a moment later.
//!
//! A ticket is made on one process and used on any other of the same broker, and nothing but the
//! broker is shared. So it is an event of an internal stream, of a tenant that no credential can
//! name: the event holds whom the ticket stands for and the digest of its secret. To use it is to
//! append a second event whose idempotency key is the id of the first: the broker adds it once,
//! so one of several that try gets in. Both are kept for longer than a ticket lives, and not long.
//!
//! Clocks of processes may differ by less than [`KEPT_FOR`]; a ticket lives longer or shorter by
//! that difference, and is never used twice. A broker that loses what it was told last (a crash
//! below the durability `disk`, an unlucky failover) may forget that a ticket was used: then it
//! could be used once more, until its life is over.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apix::{
    Action, Appended, ChannelName, Event, IdempotencyWindow, Json, Limits, MessageId, Permissions,
    RangeQuery, Retention, StreamKey, StreamName, StreamSettings, TenantId, Timestamp,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::OnceCell;

use crate::auth::{Caller, Credential, Named};
use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;

/// How long a ticket can be used.
const LIFE: Duration = Duration::from_secs(30);
/// How long a ticket, and that it was used, is kept. A used one is remembered for longer.
const KEPT_FOR: Duration = Duration::from_secs(600);
const USED_KEPT_FOR: Duration = Duration::from_secs(3_600);
const SECRET_BYTES: usize = 24;
const STREAM: &str = "tickets";
const ISSUED: &str = "ticket.issued";
const USED: &str = "ticket.used";

/// Makes and takes tickets.
pub(crate) struct Tickets {
    stream: StreamKey,
    configured: OnceCell<()>,
}

/// A ticket as its client gets it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    ticket: String,
    expires_at: String,
}

/// What the broker keeps of one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    organization_id: TenantId,
    user_id: Option<ByteString>,
    permissions: Vec<String>,
    /// SHA-256 of the secret, in Base64.
    digest: String,
    expires_at_ms: u64,
    /// When the credential of its maker ends, and with it the connection.
    credential_ends_ms: Option<u64>,
}

impl Tickets {
    pub(crate) fn new() -> apix::Result<Self> {
        let stream = StreamKey::internal(StreamName::new(STREAM)?);
        Ok(Self { stream, configured: OnceCell::new() })
    }

    /// A ticket that stands for `caller`; with `channels`, for what it may do on those alone.
    pub(crate) async fn issue(
        &self,
        gateway: &Gateway,
        caller: &Caller,
        channels: Option<&[ChannelName]>,
    ) -> Result<Ticket, ApiError> {
        let permissions = match channels {
            None => portable(caller),
            Some(channels) => narrowed(caller, channels)?,
        };
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|fault| ApiError {
            cause: Some(fault.to_string()),
            ..ApiError::new(ErrorCode::Unavailable, "no randomness to be had")
        })?;
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let expires_at = SystemTime::now() + LIFE;
        let record = Record {
            organization_id: caller.ctx.organization_id().clone(),
            user_id: caller.ctx.user_id().cloned(),
            permissions,
            digest: digest(&secret),
            expires_at_ms: unix_ms(expires_at),
            credential_ends_ms: caller.expires_at.map(unix_ms),
        };
        self.configured.get_or_try_init(|| self.configure(gateway)).await?;
        let id = self.append(gateway, Event::new(ISSUED, Json::encode(&record)?)).await?.message_id;
        Ok(Ticket {
            ticket: format!("{id}.{secret}"),
            expires_at: Timestamp::from_system_time(expires_at).as_str().to_owned(),
        })
    }

    /// Whom the ticket stands for: once.
    pub(crate) async fn redeem(
        &self,
        gateway: &Gateway,
        ticket: &str,
        named: Named<'_>,
    ) -> Result<Caller, ApiError> {
        let (id, secret) = ticket.split_once('.').ok_or_else(not_valid)?;
        let id: MessageId = id.parse().map_err(|_| not_valid())?;
        let record = self.find(gateway, id).await?.ok_or_else(not_valid)?;
        if !bool::from(record.digest.as_bytes().ct_eq(digest(secret).as_bytes()))
            || record.expires_at_ms <= unix_ms(SystemTime::now())
        {
            return Err(not_valid());
        }
        let mut used = Event::new(USED, Json::parse("{}")?);
        used.idempotency_key = Some(id.to_string().into());
        if self.append(gateway, used).await?.repeated {
            return Err(not_valid());
        }
        let ends = record.credential_ends_ms;
        let credential = Credential {
            tenant: record.organization_id,
            user: record.user_id,
            permissions: Arc::new(Permissions::parse_known(record.permissions)),
            expires_at: ends.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
            service: None,
        };
        credential.speak_for(named)
    }

    async fn find(&self, gateway: &Gateway, id: MessageId) -> Result<Option<Record>, ApiError> {
        let query = RangeQuery { from: id, to: id, limit: 1, ..RangeQuery::default() };
        let broker = gateway.service().broker();
        let page = match gateway.within(broker.read_range(&self.stream, &query)).await {
            Ok(page) => page,
            Err(fault) if fault.code == ErrorCode::NotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        match page.events.into_iter().next() {
            Some(event) if event.event_type == ISSUED => Ok(Some(event.payload.decode()?)),
            _ => Ok(None),
        }
    }

    async fn append(&self, gateway: &Gateway, event: Event) -> Result<Appended, ApiError> {
        let event = event.checked(None, &Limits::default())?;
        let broker = gateway.service().broker();
        let appended = gateway.within(broker.append(&self.stream, vec![event])).await?;
        appended.into_iter().next().ok_or_else(|| {
            ApiError::new(ErrorCode::Internal, "the broker appended nothing and said nothing")
        })
    }

    async fn configure(&self, gateway: &Gateway) -> Result<(), ApiError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let settings = StreamSettings {
            retention: Retention { max_age_ms: Some(ms(KEPT_FOR)), ..Retention::default() },
            idempotency: IdempotencyWindow {
                max_age_ms: ms(USED_KEPT_FOR),
                ..IdempotencyWindow::default()
            },
        };
        let broker = gateway.service().broker();
        gateway.within(broker.configure_stream(&self.stream, settings)).await
    }
}

/// The permissions of the maker that a client may have: never that of naming other tenants.
fn portable(caller: &Caller) -> Vec<String> {
    let act_as = Action::TenantsActAs.as_str();
    let all = caller.ctx.permissions().to_strings();
    all.into_iter().filter(|permission| !permission.starts_with(act_as)).collect()
}

/// What the maker may do on `channels`, each of which it must be allowed to follow.
fn narrowed(caller: &Caller, channels: &[ChannelName]) -> Result<Vec<String>, ApiError> {
    let ctx = &caller.ctx;
    let mut permissions = Vec::new();
    for channel in channels {
        let channel = channel.as_str();
        ctx.require(Action::ChannelsSubscribe, channel)?;
        for action in [Action::ChannelsSubscribe, Action::ChannelsPublish, Action::PresenceRead] {
            if ctx.require(action, channel).is_ok() {
                permissions.push(format!("{}:{channel}", action.as_str()));
            }
        }
    }
    Ok(permissions)
}

fn digest(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(secret))
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// One answer for all, so that nothing is learnt from it.
fn not_valid() -> ApiError {
    ApiError::unauthorized(
        "the ticket is not valid: it can be used once, within 30 s; get a new one",
    )
}
