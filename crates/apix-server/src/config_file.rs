//! The form of `apix.toml`. A key that is not known is refused, with the known ones named.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use apix_gateway::{AuthConfig, HttpConfig, LiveConfig};
use serde::Deserialize;

use crate::config::LogFormat;
use crate::failure::Failure;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileConfig {
    pub(crate) listen: Option<String>,
    pub(crate) broker: Option<String>,
    pub(crate) durability: Option<String>,
    pub(crate) drain_timeout: Option<String>,
    pub(crate) log: Option<String>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) tls: Option<TlsSection>,
    pub(crate) embedded: EmbeddedSection,
    pub(crate) redis: RedisSection,
    pub(crate) limits: LimitsSection,
    pub(crate) auth: AuthConfig,
    pub(crate) http: HttpConfig,
    pub(crate) live: LiveConfig,
}

/// `[tls]`: what the server shows to its clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsSection {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// `[embedded]`: the engine in the process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmbeddedSection {
    /// Bytes of the newest events that are served from memory.
    pub(crate) tail_cache_bytes: Option<usize>,
}

/// `[redis]`: who we are there.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedisSection {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    /// Read at each connection: it may change.
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) database: Option<u16>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
}

impl fmt::Debug for RedisSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSection")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "hidden"))
            .field("password_file", &self.password_file)
            .field("database", &self.database)
            .field("ca", &self.ca)
            .field("client_cert", &self.client_cert)
            .field("client_key", &self.client_key)
            .finish()
    }
}

/// `[limits]`: the largest parts of events and messages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsSection {
    pub(crate) max_payload_bytes: Option<usize>,
    pub(crate) max_metadata_bytes: Option<usize>,
    pub(crate) max_batch_events: Option<usize>,
    pub(crate) max_batch_bytes: Option<usize>,
}

impl FileConfig {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|fault| Failure::usage(format!("cannot read {}: {fault}", path.display())))?;
        toml::from_str(&text).map_err(|fault| {
            let line = fault.span().map_or_else(String::new, |span| {
                let before = text.get(..span.start).unwrap_or_default();
                format!(" line {}", before.matches('\n').count() + 1)
            });
            let said = fault.message().replace('\n', " ");
            Failure::usage(format!("{}{line}: {said}", path.display()))
        })
    }
}
