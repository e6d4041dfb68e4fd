//! The credentials of the configuration: keys that sign tokens, and API keys.

use std::fmt;
use std::path::PathBuf;

use apix::{Error, Result, TenantId};
use serde::Deserialize;

/// Who may call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Keys that JSON Web Tokens are checked with.
    pub jwt_keys: Vec<JwtKey>,
    /// Sets of such keys that their issuers publish and change.
    pub jwks: Vec<Jwks>,
    /// API keys.
    pub api_keys: Vec<ApiKey>,
    /// The claims that name the tenant; the first one that a token has counts (default
    /// `organizationId`, then `org_id`).
    pub organization_claims: Vec<String>,
    /// How far a caller's clock may be off when `exp` and `nbf` are checked, in seconds, at most
    /// 5 (default 0).
    pub leeway_seconds: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            jwt_keys: Vec::new(),
            jwks: Vec::new(),
            api_keys: Vec::new(),
            organization_claims: vec!["organizationId".to_owned(), "org_id".to_owned()],
            leeway_seconds: 0,
        }
    }
}

/// How a token is signed. It is a matter of the key, never of what the token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC with SHA-256; its secret has at least 32 bytes.
    HS256,
    /// RSA (PKCS #1 1.5) with SHA-256; its key has 2,048 to 8,192 bits.
    RS256,
    /// ECDSA on the curve P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// A key that tokens are checked with, and the tenants it may speak for.
///
/// In `apix.toml` the key of HS256 is called `secret`, that of the others `public_key`, so that
/// one cannot be taken for the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "JwtKeyForm")]
pub struct JwtKey {
    /// Its name: a token whose header has a `kid` is checked with the keys of that name, or, if
    /// there is none, with those that have no name.
    pub kid: Option<String>,
    /// How its tokens are signed.
    pub algorithm: Algorithm,
    /// The secret of HS256; of the others the public key as PEM (`BEGIN PUBLIC KEY`, of RSA also
    /// `BEGIN RSA PUBLIC KEY`). A file is read again when it changes.
    pub secret: Secret,
    /// Patterns of the tenants that its tokens may name, such as `acme` or `shop-*`.
    pub tenants: Vec<String>,
    /// What the claim `iss` must be, if anything.
    pub issuer: Option<String>,
    /// What the claim `aud` must contain, if anything.
    pub audience: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtKeyForm {
    kid: Option<String>,
    algorithm: Algorithm,
    secret: Option<Secret>,
    public_key: Option<Secret>,
    tenants: Vec<String>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl TryFrom<JwtKeyForm> for JwtKey {
    type Error = &'static str;

    fn try_from(form: JwtKeyForm) -> Result<Self, &'static str> {
        let secret = match (form.algorithm, form.secret, form.public_key) {
            (Algorithm::HS256, Some(secret), None) => secret,
            (Algorithm::HS256, ..) => return Err("a key for HS256 has a secret, no public_key"),
            (_, None, Some(public_key)) => public_key,
            _ => return Err("a key for RS256, ES256 or EdDSA has a public_key, no secret"),
        };
        Ok(Self {
            kid: form.kid,
            algorithm: form.algorithm,
            secret,
            tenants: form.tenants,
            issuer: form.issuer,
            audience: form.audience,
        })
    }
}

/// A JSON Web Key Set (RFC 7517): public keys that an issuer publishes and changes by itself.
///
/// A set is fetched every five minutes, or as often as the `max-age` of its answer asks for, and
/// when a token names a key that is not known (once a minute at most); a file is read again when
/// it changes. While a set cannot be had, the last one stays in force. A key that is no longer in
/// the set is no longer accepted. Shared secrets (`oct`) in a set are never used.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// Where it is.
    pub source: JwksSource,
    /// How its tokens may be signed: RS256, ES256, EdDSA.
    pub algorithms: Vec<Algorithm>,
    /// Patterns of the tenants that its tokens may name, such as `acme` or `shop-*`.
    pub tenants: Vec<String>,
    /// What the claim `iss` must be, if anything.
    #[serde(default)]
    pub issuer: Option<String>,
    /// What the claim `aud` must contain, if anything.
    #[serde(default)]
    pub audience: Option<String>,
    /// A certificate authority to trust beside those of the system, a PEM file.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// Where a key set is.
///
/// In `apix.toml`: `source = "https://…"` or `source = { file = "jwks.json" }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "JwksSourceForm")]
pub enum JwksSource {
    /// An `https` address, or an `http` one on this machine.
    Url(String),
    /// A file.
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an https address or { file = \"PATH\" }")]
enum JwksSourceForm {
    Url(String),
    File(FileForm),
}

impl From<JwksSourceForm> for JwksSource {
    fn from(form: JwksSourceForm) -> Self {
        match form {
            JwksSourceForm::Url(url) => Self::Url(url),
            JwksSourceForm::File(FileForm { file }) => Self::File(file),
        }
    }
}

/// A long-lived key of one tenant, of a service that speaks for several, or of the operator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// What logs call it.
    pub name: String,
    /// The key, or its digest.
    pub key: KeySource,
    /// Its tenant; of a service credential, the one of calls that name none.
    pub organization_id: TenantId,
    /// Its user.
    #[serde(default)]
    pub user_id: Option<String>,
    /// What it may do, such as `streams:read:orders*`; `tenants:act-as:PATTERN` makes it a
    /// service credential.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// Whether it has operator rights: over all tenants' administration, not over their data.
    #[serde(default)]
    pub operator: bool,
}

/// Secret bytes: in the configuration itself, or in a file.
///
/// In `apix.toml`: `secret = "…"` or `secret = { file = "/run/secrets/jwt" }`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "SecretForm")]
pub enum Secret {
    /// The bytes.
    Inline(Vec<u8>),
    /// A file that holds them; a line break at its end does not count.
    File(PathBuf),
}

/// An API key, or the SHA-256 digest of one, so that the configuration holds no secret.
///
/// In `apix.toml`: `key = "…"`, `key = { file = "…" }` or `key = { sha256 = "64 hex digits" }`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "SecretForm")]
pub enum KeySource {
    /// The key itself.
    Key(Secret),
    /// Its digest.
    Sha256([u8; 32]),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a text, { file = \"PATH\" } or, for an API key, { sha256 = \"HEX\" }"
)]
enum SecretForm {
    Inline(String),
    File(FileForm),
    Sha256(DigestForm),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestForm {
    sha256: String,
}

impl TryFrom<SecretForm> for Secret {
    type Error = &'static str;

    fn try_from(form: SecretForm) -> Result<Self, &'static str> {
        match form {
            SecretForm::Inline(text) => Ok(Self::Inline(text.into_bytes())),
            SecretForm::File(FileForm { file }) => Ok(Self::File(file)),
            SecretForm::Sha256(_) => Err("a signing secret cannot be given as a digest"),
        }
    }
}

impl TryFrom<SecretForm> for KeySource {
    type Error = &'static str;

    fn try_from(form: SecretForm) -> Result<Self, &'static str> {
        match form {
            SecretForm::Sha256(DigestForm { sha256 }) => {
                digest_of_hex(&sha256).map(Self::Sha256).ok_or("sha256 must be 64 hex digits")
            }
            other => Secret::try_from(other).map(Self::Key),
        }
    }
}

fn digest_of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    // `from_str_radix` would take a sign.
    text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(digest)
}

impl Secret {
    /// Secret text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Inline(text.into().into_bytes())
    }

    /// The bytes, read from the file if they are in one.
    pub(crate) fn load(&self, what: &str) -> Result<Vec<u8>> {
        let bytes = match self {
            Self::Inline(bytes) => bytes.clone(),
            Self::File(path) => {
                let mut bytes = std::fs::read(path).map_err(|fault| {
                    Error::invalid(format!("{what}: cannot read {}: {fault}", path.display()))
                })?;
                let end = bytes.trim_ascii_end().len();
                bytes.truncate(end);
                bytes
            }
        };
        if bytes.is_empty() {
            return Err(Error::invalid(format!("{what}: the secret is empty")));
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(hidden)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(secret) => secret.fmt(f),
            Self::Sha256(_) => f.write_str("Sha256(hidden)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_in_their_forms_and_never_shown() {
        let key = |text: &str| serde_json::from_str::<KeySource>(text);
        assert!(matches!(key(r#""abc""#), Ok(KeySource::Key(Secret::Inline(_)))));
        assert!(matches!(key(r#"{"file":"x"}"#), Ok(KeySource::Key(Secret::File(_)))));
        let digest = format!(r#"{{"sha256":"{}"}}"#, "0f".repeat(32));
        assert!(matches!(key(&digest), Ok(KeySource::Sha256(d)) if d == [15; 32]));
        for wrong in [r#"{"sha256":"00"}"#, r#"{"fil":"x"}"#, "5", r#"{"file":"x","sha256":"y"}"#] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Secret>(&digest).is_err());
        let shown = format!("{:?}", (Secret::text("hush"), key(&digest).unwrap()));
        assert!(!shown.contains("hush") && !shown.contains("15"), "{shown}");
    }
}
