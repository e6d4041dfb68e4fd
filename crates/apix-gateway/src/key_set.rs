//! The keys of one entry of the configuration, which may change while the gateway runs.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use apix::{Error, Result};
use jsonwebtoken::DecodingKey;

use crate::credentials::{Algorithm, Jwks, JwksSource, JwtKey, Secret};
use crate::jwks::{MAX_JWKS_BYTES, PublishedKey, read_set};
use crate::public_key::read_pem;
use crate::remote_set::RemoteSet;
use crate::trust::{Trust, TrustedKey};
use crate::watched_file::WatchedFile;

/// RFC 7518 asks of HS256 for a key at least as long as its hash.
const MIN_HS256_BYTES: usize = 32;

enum Source {
    Inline,
    KeyFile { file: WatchedFile, config: JwtKey },
    SetFile { file: WatchedFile, algorithms: Vec<Algorithm> },
    Remote(RemoteSet),
}

/// The keys of one entry.
pub(crate) struct KeySet {
    /// What the entry is called in errors and in the log.
    what: String,
    trust: Trust,
    source: Source,
    /// None before a set was fetched for the first time.
    keys: RwLock<Option<Arc<Vec<TrustedKey>>>>,
}

impl KeySet {
    /// A single key.
    pub(crate) fn of_key(config: &JwtKey, leeway_seconds: u64) -> Result<Self> {
        let what = match &config.kid {
            Some(kid) => format!("the JWT key {kid:?}"),
            None => "the JWT key without kid".to_owned(),
        };
        let (issuer, audience) = (config.issuer.as_deref(), config.audience.as_deref());
        let trust = Trust::new(&what, &config.tenants, issuer, audience, leeway_seconds)?;
        let source = match &config.secret {
            Secret::Inline(_) => Source::Inline,
            Secret::File(path) => {
                Source::KeyFile { file: WatchedFile::new(path), config: config.clone() }
            }
        };
        let key = trust.key(config.kid.clone(), config.algorithm, read_key(&what, config)?);
        Ok(Self { what, trust, source, keys: RwLock::new(Some(Arc::new(vec![key]))) })
    }

    /// A set that its issuer publishes.
    pub(crate) fn of_set(config: &Jwks, leeway_seconds: u64) -> Result<Self> {
        let what = match &config.source {
            JwksSource::Url(url) => format!("the key set {url}"),
            JwksSource::File(path) => format!("the key set {}", path.display()),
        };
        if config.algorithms.is_empty() || config.algorithms.contains(&Algorithm::HS256) {
            return Err(Error::invalid(format!(
                "{what}: algorithms must list some of RS256, ES256 and EdDSA, and no HS256: a set \
                 has public keys"
            )));
        }
        let (issuer, audience) = (config.issuer.as_deref(), config.audience.as_deref());
        let trust = Trust::new(&what, &config.tenants, issuer, audience, leeway_seconds)?;
        let (source, published) = match &config.source {
            JwksSource::Url(url) => {
                let ca = config.ca.as_deref();
                (Source::Remote(RemoteSet::new(&what, url, ca, &config.algorithms)?), None)
            }
            JwksSource::File(path) => {
                let file = WatchedFile::new(path);
                let published = read_set_file(path, &config.algorithms)
                    .map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
                (Source::SetFile { file, algorithms: config.algorithms.clone() }, Some(published))
            }
        };
        let set = Self { what, trust, source, keys: RwLock::new(None) };
        if let Some(published) = published {
            set.publish(published);
        }
        Ok(set)
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The keys as they are now; none if they were never had.
    pub(crate) fn keys(&self) -> Option<Arc<Vec<TrustedKey>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The set at an address, if it is one.
    pub(crate) fn remote(&self) -> Option<&RemoteSet> {
        match &self.source {
            Source::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// Fetches the set for ever, if it is one at an address.
    pub(crate) async fn keep_fresh(&self) {
        if let Source::Remote(remote) = &self.source {
            remote.keep_fresh(|published| self.publish(published)).await;
        }
    }

    /// Reads a file again that has changed. If it cannot be read, what was read before stays.
    pub(crate) fn read_again(&self) {
        let read = match &self.source {
            Source::KeyFile { file, config } if file.has_changed() => read_key(&self.what, config)
                .map_err(|fault| fault.to_string())
                .map(|key| vec![self.trust.key(config.kid.clone(), config.algorithm, key)]),
            Source::SetFile { file, algorithms } if file.has_changed() => {
                read_set_file(file.path(), algorithms).map(|published| self.trusted(published))
            }
            _ => return,
        };
        match read {
            Ok(keys) => {
                tracing::info!(set = self.what, keys = keys.len(), "keys read again");
                self.replace(keys);
            }
            Err(fault) => {
                tracing::warn!(set = self.what, fault, "cannot read the keys again, keeping those");
            }
        }
    }

    fn publish(&self, published: Vec<PublishedKey>) {
        self.replace(self.trusted(published));
    }

    fn trusted(&self, published: Vec<PublishedKey>) -> Vec<TrustedKey> {
        let trusted = |key: PublishedKey| self.trust.key(key.kid, key.algorithm, key.key);
        published.into_iter().map(trusted).collect()
    }

    fn replace(&self, keys: Vec<TrustedKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
    }
}

fn read_key(what: &str, config: &JwtKey) -> Result<DecodingKey> {
    let bytes = config.secret.load(what)?;
    let wrong = |fault: String| Error::invalid(format!("{what}: {fault}"));
    if config.algorithm != Algorithm::HS256 {
        return read_pem(&bytes, config.algorithm).map_err(wrong);
    }
    if bytes.len() < MIN_HS256_BYTES {
        return Err(wrong(format!(
            "the secret has {} bytes; HS256 needs at least {MIN_HS256_BYTES}",
            bytes.len()
        )));
    }
    // Who knows a public key, everybody, could sign with it.
    if bytes.windows(11).any(|part| part == b"-----BEGIN ") {
        return Err(wrong(
            "the secret of HS256 is a PEM text; name the key's algorithm".to_owned(),
        ));
    }
    Ok(DecodingKey::from_secret(&bytes))
}

fn read_set_file(path: &Path, algorithms: &[Algorithm]) -> Result<Vec<PublishedKey>, String> {
    let wrong = |fault| format!("cannot read {}: {fault}", path.display());
    let bytes = std::fs::metadata(path).map_err(wrong)?.len();
    if bytes > MAX_JWKS_BYTES as u64 {
        return Err(format!("the key set has more than {MAX_JWKS_BYTES} bytes"));
    }
    read_set(&std::fs::read(path).map_err(wrong)?, algorithms)
}
