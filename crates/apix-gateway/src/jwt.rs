//! JSON Web Tokens: what a token must be like, and what it says of its bearer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apix::{Error, Permissions, Result, TenantId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;
use futures_util::future::join_all;
use jsonwebtoken::errors::ErrorKind as Fault;
use jsonwebtoken::{Header, decode, decode_header};
use serde_json::{Map, Value};

use crate::auth::Credential;
use crate::credentials::{Algorithm, AuthConfig};
use crate::error::{ApiError, ErrorCode};
use crate::key_set::KeySet;
use crate::trust::{Trust, TrustedKey};

const MAX_LEEWAY_SECONDS: u64 = 5;
/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// The end of the year 9999, which is as good as never, and can still be written.
const LAST_TIME: Duration = Duration::from_secs(253_402_300_799);

type Claims = Map<String, Value>;

/// The configured keys.
pub(crate) struct TokenKeys {
    sets: Vec<KeySet>,
    organization_claims: Vec<String>,
}

/// Why a token is refused, and how far it came: the key that took it furthest says why.
struct Refused {
    reached: Reached,
    error: ApiError,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    NoKey,
    KeyOfAnotherAlgorithm,
    Signature,
    /// The signature is right: the key was found.
    Claims,
    Tenant,
}

impl TokenKeys {
    pub(crate) fn new(config: &AuthConfig) -> Result<Self> {
        let leeway = config.leeway_seconds;
        if leeway > MAX_LEEWAY_SECONDS {
            return Err(Error::invalid(format!(
                "leeway_seconds must be at most {MAX_LEEWAY_SECONDS}"
            )));
        }
        let keys = config.jwt_keys.iter().map(|key| KeySet::of_key(key, leeway));
        let sets = config.jwks.iter().map(|set| KeySet::of_set(set, leeway));
        Ok(Self {
            sets: keys.chain(sets).collect::<Result<_>>()?,
            organization_claims: config.organization_claims.clone(),
        })
    }

    /// Fetches key sets for ever.
    pub(crate) async fn keep_fresh(&self) {
        join_all(self.sets.iter().map(KeySet::keep_fresh)).await;
    }

    /// Reads files again that have changed.
    pub(crate) fn read_again(&self) {
        self.sets.iter().for_each(KeySet::read_again);
    }

    pub(crate) async fn check(&self, token: &str) -> Result<Credential, ApiError> {
        let header = read_header(token)?;
        let refused = match self.look(token, &header) {
            Ok(credential) => return Ok(credential),
            Err(refused) => refused,
        };
        if refused.reached >= Reached::Claims {
            return Err(refused.error);
        }
        let elsewhere = self.where_the_key_may_be(&header);
        if elsewhere.is_empty() {
            return Err(refused.error);
        }
        join_all(elsewhere.iter().filter_map(|set| set.remote()).map(|remote| remote.ask())).await;
        let refused = match self.look(token, &header) {
            Ok(credential) => return Ok(credential),
            Err(refused) => refused,
        };
        if refused.reached < Reached::Claims && elsewhere.iter().any(|set| set.keys().is_none()) {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                "the keys that the token may be signed with cannot be fetched; try again",
            ));
        }
        Err(refused.error)
    }

    /// The sets that may have the key of a token since they were fetched last.
    fn where_the_key_may_be(&self, header: &Header) -> Vec<&KeySet> {
        let algorithm = match header.alg {
            jsonwebtoken::Algorithm::RS256 => Algorithm::RS256,
            jsonwebtoken::Algorithm::ES256 => Algorithm::ES256,
            jsonwebtoken::Algorithm::EdDSA => Algorithm::EdDSA,
            _ => return Vec::new(),
        };
        let may_have = |set: &&KeySet| match (set.keys(), &header.kid) {
            _ if !set.remote().is_some_and(|remote| remote.allows(algorithm)) => false,
            (None, _) => true,
            (Some(keys), Some(kid)) => !keys.iter().any(|key| key.is_named(kid)),
            (Some(_), None) => false,
        };
        self.sets.iter().filter(may_have).collect()
    }

    fn look(&self, token: &str, header: &Header) -> Result<Credential, Refused> {
        let sets: Vec<_> = self.sets.iter().map(|set| (set.trust(), set.keys())).collect();
        let all = || {
            sets.iter().flat_map(|(trust, keys)| {
                keys.iter().flat_map(|keys| keys.iter()).map(move |key| (*trust, key))
            })
        };
        let kid = header.kid.as_deref();
        let named = kid.filter(|kid| all().any(|(_, key)| key.is_named(kid)));
        let meant = |key: &TrustedKey| match (kid, named) {
            (None, _) => true,
            (Some(_), Some(kid)) => key.is_named(kid),
            (Some(_), None) => key.kid.is_none(),
        };
        let mut refused = Refused {
            reached: Reached::NoKey,
            error: ApiError::unauthorized("the token names no key that this server knows"),
        };
        for (trust, key) in all().filter(|(_, key)| meant(key)) {
            match self.try_key(token, trust, key) {
                Ok(credential) => return Ok(credential),
                Err(other) if other.reached > refused.reached => refused = other,
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn try_key(&self, token: &str, trust: &Trust, key: &TrustedKey) -> Result<Credential, Refused> {
        let claims = match decode::<Claims>(token, &key.key, &key.rules) {
            Ok(data) => data.claims,
            Err(fault) => {
                let reached = match fault.kind() {
                    Fault::InvalidAlgorithm => Reached::KeyOfAnotherAlgorithm,
                    Fault::InvalidSignature => Reached::Signature,
                    _ => Reached::Claims,
                };
                return Err(Refused { reached, error: unauthorized(&fault) });
            }
        };
        self.credential(trust, &claims)
    }

    fn credential(&self, trust: &Trust, claims: &Claims) -> Result<Credential, Refused> {
        let refused = |error| Refused { reached: Reached::Claims, error };
        let tenant = self.organization_claims.iter().find_map(|claim| claims.get(claim));
        let Some(tenant) = tenant.and_then(Value::as_str) else {
            return Err(refused(ApiError::unauthorized(format!(
                "the token names no tenant; it needs the claim {}",
                self.organization_claims.join(" or ")
            ))));
        };
        let tenant = TenantId::new(tenant).map_err(|fault| refused(fault.into()))?;
        if !trust.may_speak_for(&tenant) {
            let error = ApiError::unauthorized(format!(
                "the key that signed the token may not speak for the tenant {tenant:?}"
            ));
            return Err(Refused { reached: Reached::Tenant, error });
        }
        // The library takes a time that is no number for one that is not there.
        if claims.get("nbf").is_some_and(|nbf| !nbf.is_number()) {
            return Err(refused(ApiError::unauthorized("the claim nbf must be a number")));
        }
        let expires_at = claims
            .get("exp")
            .and_then(Value::as_f64)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(|since| since.min(LAST_TIME))
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        if expires_at.is_none() {
            let error = ApiError::unauthorized("the claim exp must be Unix time in seconds");
            return Err(refused(error));
        }
        let user = claims.get("sub").and_then(Value::as_str).map(ByteString::from);
        let permissions = Arc::new(permissions(claims));
        Ok(Credential { tenant, user, permissions, expires_at, service: None })
    }
}

fn read_header(token: &str) -> Result<Header, ApiError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(ApiError::unauthorized(format!(
            "the token has {} bytes; the limit is {MAX_TOKEN_BYTES}",
            token.len()
        )));
    }
    let header = decode_header(token).map_err(|fault| unauthorized(&fault))?;
    // What a token declares critical must be understood (RFC 7515), and none of it is.
    let fields = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let fields = fields.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    match fields {
        Some(fields) if !fields.contains_key("crit") => Ok(header),
        _ => Err(ApiError::unauthorized("the token's header has crit, which is not supported")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_header_reader_panic(
            text in ".{0,60}", head in r#"\{("(alg|kid|crit)":("HS256"|"none"|\[\]|5),?){0,3}\}"#,
        ) {
            for token in [text.clone(), format!("{}.{text}.", URL_SAFE_NO_PAD.encode(&head))] {
                let read = read_header(&token);
                prop_assert!(read.is_err() || !head.contains("crit"), "{head}");
            }
        }
    }
}
