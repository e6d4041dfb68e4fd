//! JSON Web Tokens: what a token must be like, and what it says of its bearer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apix::{Action, Error, Permissions, Result, TenantId};
use bytestring::ByteString;
use jsonwebtoken::errors::ErrorKind as Fault;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::auth::Credential;
use crate::credentials::{Algorithm, AuthConfig, JwtKey};
use crate::error::{ApiError, ErrorCode};

/// RFC 7518 asks of HS256 for a key at least as long as its hash.
const MIN_HS256_BYTES: usize = 32;
const MAX_LEEWAY_SECONDS: u64 = 5;

type Claims = Map<String, Value>;

struct Key {
    kid: Option<String>,
    key: DecodingKey,
    rules: Validation,
    /// The tenants it may speak for.
    tenants: Permissions,
}

/// The configured keys.
pub(crate) struct TokenKeys {
    keys: Vec<Key>,
    organization_claims: Vec<String>,
}

impl TokenKeys {
    pub(crate) fn new(config: &AuthConfig) -> Result<Self> {
        if config.leeway_seconds > MAX_LEEWAY_SECONDS {
            return Err(Error::invalid(format!(
                "leeway_seconds must be at most {MAX_LEEWAY_SECONDS}"
            )));
        }
        let key = |key: &JwtKey| Key::new(key, config.leeway_seconds);
        Ok(Self {
            keys: config.jwt_keys.iter().map(key).collect::<Result<_>>()?,
            organization_claims: config.organization_claims.clone(),
        })
    }

    pub(crate) fn check(&self, token: &str) -> Result<Credential, ApiError> {
        let header = decode_header(token).map_err(|fault| unauthorized(&fault))?;
        let named = header
            .kid
            .as_deref()
            .filter(|kid| self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)));
        let mut refused = None;
        for key in &self.keys {
            let meant = match (&header.kid, named) {
                (None, _) => true,
                (Some(_), Some(kid)) => key.kid.as_deref() == Some(kid),
                (Some(_), None) => key.kid.is_none(),
            };
            if !meant {
                continue;
            }
            match decode::<Claims>(token, &key.key, &key.rules) {
                Ok(data) => return self.credential(key, &data.claims),
                // Another key may be the right one; a fault found behind a right signature counts.
                Err(fault) if matches!(fault.kind(), Fault::InvalidSignature) => {
                    refused.get_or_insert(fault);
                }
                Err(fault) => refused = Some(fault),
            }
        }
        Err(refused.map_or_else(
            || ApiError::unauthorized("the token names no key that this server knows"),
            |fault| unauthorized(&fault),
        ))
    }

    fn credential(&self, key: &Key, claims: &Claims) -> Result<Credential, ApiError> {
        let tenant = self.organization_claims.iter().find_map(|claim| claims.get(claim));
        let Some(tenant) = tenant.and_then(Value::as_str) else {
            return Err(ApiError::unauthorized(format!(
                "the token names no tenant; it needs the claim {}",
                self.organization_claims.join(" or ")
            )));
        };
        let tenant = TenantId::new(tenant)?;
        if !key.tenants.allows(Action::TenantsActAs, tenant.as_str(), None) {
            return Err(ApiError::new(
                ErrorCode::Unauthorized,
                format!("the key that signed the token may not speak for the tenant {tenant:?}"),
            ));
        }
        let expires_at = claims
            .get("exp")
            .and_then(Value::as_f64)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        if expires_at.is_none() {
            return Err(ApiError::unauthorized("the claim exp must be Unix time in seconds"));
        }
        let user = claims.get("sub").and_then(Value::as_str).map(ByteString::from);
        let permissions = Arc::new(permissions(claims));
        Ok(Credential { tenant, user, permissions, expires_at, service: false })
    }
}

/// The claim `permissions`, an array, or else `scope`, a text with spaces between. Neither grants
/// nothing.
fn permissions(claims: &Claims) -> Permissions {
    match (claims.get("permissions"), claims.get("scope")) {
        (Some(Value::Array(list)), _) => {
            Permissions::parse_known(list.iter().filter_map(Value::as_str))
        }
        (None, Some(Value::String(scope))) => {
            Permissions::parse_known(scope.split_ascii_whitespace())
        }
        _ => Permissions::default(),
    }
}

impl Key {
    fn new(config: &JwtKey, leeway_seconds: u64) -> Result<Self> {
        let what = match &config.kid {
            Some(kid) => format!("the JWT key {kid:?}"),
            None => "the JWT key without kid".to_owned(),
        };
        let secret = config.secret.load(&what)?;
        let (algorithm, key) = match config.algorithm {
            Algorithm::HS256 if secret.len() < MIN_HS256_BYTES => {
                return Err(Error::invalid(format!(
                    "{what}: the secret has {} bytes; HS256 needs at least {MIN_HS256_BYTES}",
                    secret.len()
                )));
            }
            Algorithm::HS256 => (jsonwebtoken::Algorithm::HS256, DecodingKey::from_secret(&secret)),
        };
        if config.tenants.is_empty() {
            return Err(Error::invalid(format!(
                "{what}: tenants is empty; list the tenants it may speak for, or \"*\" for all"
            )));
        }
        let patterns = config.tenants.iter().map(|pattern| format!("tenants:act-as:{pattern}"));
        let tenants = Permissions::parse(patterns)
            .map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
        let mut rules = Validation::new(algorithm);
        rules.leeway = leeway_seconds;
        rules.validate_nbf = true;
        rules.validate_aud = config.audience.is_some();
        if let Some(issuer) = &config.issuer {
            rules.set_issuer(&[issuer]);
            rules.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = &config.audience {
            rules.set_audience(&[audience]);
            rules.required_spec_claims.insert("aud".to_owned());
        }
        Ok(Self { kid: config.kid.clone(), key, rules, tenants })
    }
}

fn unauthorized(fault: &jsonwebtoken::errors::Error) -> ApiError {
    let message = match fault.kind() {
        Fault::ExpiredSignature => "the token has expired; get a new one".into(),
        Fault::ImmatureSignature => "the token is not valid yet (claim nbf)".into(),
        Fault::InvalidSignature => "the token's signature fits none of the keys".into(),
        Fault::InvalidAlgorithm => "the token is signed with another algorithm than its key".into(),
        Fault::InvalidIssuer => "the token is from another issuer (claim iss)".into(),
        Fault::InvalidAudience => "the token is for another audience (claim aud)".into(),
        Fault::MissingRequiredClaim(claim) => format!("the token lacks the claim {claim}"),
        _ => "the token is not a JWT that this server can read".into(),
    };
    ApiError::unauthorized(message)
}
