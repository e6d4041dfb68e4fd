//! A credential becomes a [`TenantContext`]: here and nowhere else.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use apix::{Action, Error, Permissions, Result, TenantContext, TenantId};
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytestring::ByteString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::sleep;

use crate::credentials::{ApiKey, AuthConfig, KeySource, Secret};
use crate::error::{ApiError, ErrorCode};
use crate::expiry::Expiry;
use crate::gateway::Gateway;
use crate::jwt::TokenKeys;
use crate::watched_file::WatchedFile;

/// Names the tenant of a call by a service credential.
const APIX_TENANT: HeaderName = HeaderName::from_static("apix-tenant");
/// Names the user of a call by a service credential.
const APIX_USER: HeaderName = HeaderName::from_static("apix-user");
/// How often files of keys are looked at.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Who is calling, and until when the credential is good.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) ctx: TenantContext,
    pub(crate) expiry: Expiry,
    pub(crate) expires_at: Option<SystemTime>,
    /// The name of the service credential, if it is one.
    service: Option<Arc<str>>,
    /// The tenant that the credential itself belongs to.
    home: TenantId,
}

/// What a valid credential says, before a service credential names its tenant.
pub(crate) struct Credential {
    pub(crate) tenant: TenantId,
    pub(crate) user: Option<ByteString>,
    pub(crate) permissions: Arc<Permissions>,
    pub(crate) expires_at: Option<SystemTime>,
    /// The name of the key that may name the tenant of each call. Only API keys may: a token's
    /// issuer is bound to the tenants of its key.
    pub(crate) service: Option<Arc<str>>,
}

struct KnownKey {
    digest: [u8; 32],
    tenant: TenantId,
    user: Option<ByteString>,
    permissions: Arc<Permissions>,
    service: Option<Arc<str>>,
}

/// All configured credentials, ready to check tokens against.
pub(crate) struct Authenticator {
    tokens: TokenKeys,
    configured_keys: Vec<ApiKey>,
    key_files: Vec<WatchedFile>,
    api_keys: RwLock<Arc<Vec<KnownKey>>>,
}

impl Authenticator {
    pub(crate) fn new(config: &AuthConfig) -> Result<Self> {
        let files = config.api_keys.iter().filter_map(|key| match &key.key {
            KeySource::Key(Secret::File(path)) => Some(WatchedFile::new(path)),
            _ => None,
        });
        Ok(Self {
            key_files: files.collect(),
            api_keys: RwLock::new(Arc::new(known_keys(&config.api_keys)?)),
            configured_keys: config.api_keys.clone(),
            tokens: TokenKeys::new(config)?,
        })
    }

    /// Fetches key sets and reads files again that have changed, for ever.
    pub(crate) async fn keep_fresh(&self) {
        let files = async {
            loop {
                sleep(FILE_CHECK_INTERVAL).await;
                self.tokens.read_again();
                self.read_keys_again();
            }
        };
        tokio::join!(files, self.tokens.keep_fresh());
    }

    fn read_keys_again(&self) {
        // Each is to be asked: a change counts as seen then.
        if self.key_files.iter().filter(|file| file.has_changed()).count() == 0 {
            return;
        }
        match known_keys(&self.configured_keys) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "API keys read again");
                *self.api_keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(fault) => tracing::warn!(%fault, "cannot read the API keys again, keeping those"),
        }
    }

    /// Checks `token` and, of a service credential, the tenant and user that the call names.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        named: Named<'_>,
    ) -> Result<Caller, ApiError> {
        let credential =
            if is_jwt(token) { self.tokens.check(token).await } else { self.find(token) }?;
        credential.speak_for(named)
    }

    fn find(&self, token: &str) -> Result<Credential, ApiError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = Arc::clone(&self.api_keys.read().unwrap_or_else(PoisonError::into_inner));
        let mut found = None;
        // No early end: the time taken says nothing about which key it was.
        for key in known.iter() {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(key);
            }
        }
        let key = found.ok_or_else(|| {
            ApiError::unauthorized(
                "the credential is not valid: it is no API key of this server, and no JWT, which \
                 has three parts with dots between",
            )
        })?;
        Ok(Credential {
            tenant: key.tenant.clone(),
            user: key.user.clone(),
            permissions: Arc::clone(&key.permissions),
            expires_at: None,
            service: key.service.clone(),
        })
    }
}

fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|&b| b == b'.').count() == 2
}

fn known_keys(configured: &[ApiKey]) -> Result<Vec<KnownKey>> {
    let keys = configured.iter().map(known_key).collect::<Result<Vec<_>>>()?;
    for (index, key) in keys.iter().enumerate() {
        if keys[..index].iter().any(|other| other.digest == key.digest) {
            let name = &configured[index].name;
            return Err(Error::invalid(format!(
                "the API key {name:?} is the same as another one; give each its own"
            )));
        }
    }
    Ok(keys)
}

fn known_key(key: &ApiKey) -> Result<KnownKey> {
    let what = format!("the API key {:?}", key.name);
    let digest = match &key.key {
        KeySource::Sha256(digest) => *digest,
        KeySource::Key(secret) => {
            let secret = secret.load(&what)?;
            let plain = std::str::from_utf8(&secret)
                .is_ok_and(|text| text.bytes().all(|b| b.is_ascii_graphic()) && !is_jwt(text));
            if !plain {
                return Err(Error::invalid(format!(
                    "{what}: a key is visible ASCII without spaces, and has not two dots, which \
                     would make it look like a JWT"
                )));
            }
            Sha256::digest(&secret).into()
        }
    };
    let permissions = Permissions::parse(&key.permissions)
        .map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
    let service = permissions.has(Action::TenantsActAs).then(|| Arc::from(&*key.name));
    let (permissions, user) = (Arc::new(permissions), key.user_id.clone().map(ByteString::from));
    let tenant = key.organization_id.clone();
    TenantContext::authenticated(tenant.clone(), user.clone(), Arc::clone(&permissions))
        .map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
    Ok(KnownKey { digest, tenant, user, permissions, service })
}

/// The tenant and user that a call names beside its credential.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named<'a> {
    pub(crate) tenant: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
}

impl Credential {
    pub(crate) fn speak_for(self, named: Named<'_>) -> Result<Caller, ApiError> {
        let tenant = named.tenant.map(TenantId::new).transpose()?;
        let other = tenant.filter(|tenant| *tenant != self.tenant);
        if let Some(tenant) = &other {
            self.check_act_as(tenant)?;
        }
        if let (Some(key), true) = (&self.service, other.is_some() || named.user.is_some()) {
            log_use(key, other.as_ref().unwrap_or(&self.tenant));
        }
        let user = match named.user {
            Some(user) if self.user.as_deref() != Some(user) => {
                if self.service.is_none() {
                    return Err(ApiError::new(
                        ErrorCode::PermissionDenied,
                        "only an API key with tenants:act-as:PATTERN may name a user by Apix-User",
                    ));
                }
                Some(ByteString::from(user))
            }
            // The key's own user is one of its own tenant.
            _ if other.is_some() => named.user.map(ByteString::from),
            _ => self.user,
        };
        let home = self.tenant.clone();
        let ctx =
            TenantContext::authenticated(other.unwrap_or(self.tenant), user, self.permissions)?;
        let (expires_at, service) = (self.expires_at, self.service);
        Ok(Caller { ctx, expiry: Expiry::at(expires_at), expires_at, service, home })
    }

    fn check_act_as(&self, tenant: &TenantId) -> Result<(), ApiError> {
        if self.service.is_none() {
            return Err(ApiError::new(
                ErrorCode::TenantMismatch,
                format!(
                    "Apix-Tenant names {:?}, but the credential is one of another tenant; leave \
                     the header out, or use an API key with tenants:act-as:PATTERN",
                    tenant.as_str()
                ),
            ));
        }
        if !self.permissions.allows(Action::TenantsActAs, tenant.as_str(), None) {
            return Err(lacks_act_as(tenant));
        }
        Ok(())
    }
}

fn lacks_act_as(tenant: &TenantId) -> ApiError {
    ApiError::new(
        ErrorCode::PermissionDenied,
        format!("the credential lacks the permission 'tenants:act-as:{tenant}'"),
    )
}

/// Every use of a service credential for others is logged, under a target of its own.
fn log_use(key: &str, tenant: &TenantId) {
    tracing::info!(target: "apix_gateway::act_as", key, %tenant, "a service credential acts");
}

/// The token of the header `Authorization`, if there is one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::unauthorized("the header Authorization must be given once"));
    }
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(ApiError::unauthorized(
            "the header Authorization must have the form 'Bearer TOKEN', with a JWT or an API key",
        )),
    }
}

/// The tenant and user that the headers name.
pub(crate) fn named(headers: &HeaderMap) -> Result<Named<'_>, ApiError> {
    let text = |name: HeaderName| match headers.get(&name) {
        None => Ok(None),
        Some(value) => std::str::from_utf8(value.as_bytes())
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("the header {name} is not UTF-8"))),
    };
    Ok(Named { tenant: text(APIX_TENANT)?, user: text(APIX_USER)? })
}

pub(crate) fn no_credential() -> ApiError {
    ApiError::unauthorized(
        "no credential: send the header 'Authorization: Bearer TOKEN', with a JWT or an API key",
    )
}

impl Caller {
    /// The caller in the name of `tenant`, on a live connection; its own, if none is named.
    pub(crate) fn context_for(&self, tenant: Option<&TenantId>) -> Result<TenantContext, ApiError> {
        let Some(tenant) = tenant.filter(|tenant| *tenant != self.ctx.organization_id()) else {
            return Ok(self.ctx.clone());
        };
        let Some(key) = &self.service else {
            return Err(ApiError::new(
                ErrorCode::TenantMismatch,
                "organizationId names another tenant than the credential; leave it out, or use an \
                 API key with tenants:act-as:PATTERN",
            ));
        };
        let allowed = self.ctx.permissions();
        if *tenant != self.home && !allowed.allows(Action::TenantsActAs, tenant.as_str(), None) {
            return Err(lacks_act_as(tenant));
        }
        log_use(key, tenant);
        let permissions = Arc::new(allowed.clone());
        // A user is one of a single tenant.
        Ok(TenantContext::authenticated(tenant.clone(), None, permissions)?)
    }

    /// The same caller by another token.
    pub(crate) async fn renewed(
        &self,
        authenticator: &Authenticator,
        token: &str,
    ) -> Result<Self, ApiError> {
        // A service credential names again for whom it speaks.
        let named = match &self.service {
            None => Named::default(),
            Some(_) => Named {
                tenant: Some(self.ctx.organization_id().as_str()),
                user: self.ctx.user_id().map(|user| &**user),
            },
        };
        let caller = authenticator.authenticate(token, named).await?;
        if caller.ctx.organization_id() != self.ctx.organization_id() {
            return Err(ApiError::new(
                ErrorCode::TenantMismatch,
                "the token is one of another tenant than the connection's; connect anew with it",
            ));
        }
        if caller.ctx.user_id() != self.ctx.user_id() {
            return Err(ApiError::new(
                ErrorCode::PermissionDenied,
                "the token is one of another user than the connection's; connect anew with it",
            ));
        }
        Ok(caller)
    }

    /// The caller that the headers name.
    pub(crate) async fn of(gateway: &Gateway, headers: &HeaderMap) -> Result<Self, ApiError> {
        let token = bearer(headers)?.ok_or_else(no_credential)?;
        gateway.authenticator().authenticate(token, named(headers)?).await
    }
}

impl FromRequestParts<Gateway> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        Self::of(gateway, &parts.headers).await
    }
}
