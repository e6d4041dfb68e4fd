//! How to reach the server, and how safe its events are to be.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use apix::{Durability, Error, ErrorKind, Result};

use crate::error::wrong_setting;

/// A password: text, or a file that holds it and may change.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself.
    Text(String),
    /// A file, read again at each connection; white space at its end is left out.
    File(PathBuf),
}

impl Secret {
    pub(crate) async fn read(&self) -> Result<String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim_end().to_owned()),
                Err(fault) => Err(wrong_setting(format!(
                    "the password file {} cannot be read",
                    path.display()
                ))
                .with_source(fault)),
            },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Secret(…)"),
            Self::File(path) => write!(f, "Secret({})", path.display()),
        }
    }
}

/// Certificates, where the system's authorities are not enough. Used with `rediss://`.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM file of the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate, where the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the key of that certificate.
    pub key_file: Option<PathBuf>,
}

/// How [`RedisBroker`](crate::RedisBroker) connects and works.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS (default
    /// `redis://127.0.0.1:6379`).
    pub url: String,
    /// ACL user; wins over the URL's.
    pub username: Option<String>,
    /// Password; wins over the URL's.
    pub password: Option<Secret>,
    /// Database; wins over the URL's. Channels are shared by all databases of a server.
    pub database: Option<u16>,
    /// Certificates.
    pub tls: TlsOptions,
    /// How safe an event is when its id is returned (default [`Durability::Memory`]: as safe as
    /// the server is set to). What the server cannot give is refused at the start.
    pub durability: Durability,
    /// How often retention is applied to each stream in use (default 5 s).
    pub trim_every: Duration,
    /// How often ended leases are looked for in each group in use (default 500 ms).
    pub sweep_every: Duration,
    /// Connections for reads that wait (default 64). Beyond it, reads look every 50 ms.
    pub max_blocking_connections: usize,
    /// How long a connection may take to be made, TLS and authentication included (default 5 s).
    pub connect_timeout: Duration,
    /// How long an answer may take before the connection counts as broken (default 5 s).
    pub request_timeout: Duration,
    /// How many calls may wait to be sent (default 8,192); further ones wait for room.
    pub max_queued_calls: usize,
    /// The most bytes of messages that wait for one subscriber (default 1 MiB).
    pub subscriber_queue_bytes: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            username: None,
            password: None,
            database: None,
            tls: TlsOptions::default(),
            durability: Durability::Memory,
            trim_every: Duration::from_secs(5),
            sweep_every: Duration::from_millis(500),
            max_blocking_connections: 64,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            max_queued_calls: 8_192,
            subscriber_queue_bytes: apix::subscription::DEFAULT_QUEUE_BYTES,
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("url", &without_secret(&self.url))
            .field("username", &self.username)
            .field("password", &self.password)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// The URL with `…` in place of user and password.
fn without_secret(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, place)) => format!("{scheme}://…@{place}"),
            None => url.to_owned(),
        },
        None => "…".to_owned(),
    }
}

/// Where a server is and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u16,
}

impl Address {
    /// Takes the URL apart; what stands beside it in the options wins.
    pub(crate) fn of(options: &RedisOptions) -> Result<Self> {
        let shown = without_secret(&options.url);
        let (scheme, rest) = options.url.split_once("://").ok_or_else(|| {
            wrong_setting(format!("{shown:?} is not a URL such as redis://127.0.0.1:6379"))
        })?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            "redis-sentinel" | "rediss-sentinel" | "redis-cluster" | "rediss-cluster" => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "{scheme}:// is not supported by this version; use redis:// or rediss:// with one server"
                    ),
                ));
            }
            _ => {
                return Err(wrong_setting(format!(
                    "{scheme}:// is not known; use redis:// or rediss://"
                )));
            }
        };
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        let (place, database) = match place.split_once('/') {
            Some((place, database)) => (place, database),
            None => (place, ""),
        };
        let (host, port) = host_and_port(place)
            .ok_or_else(|| wrong_setting(format!("{shown:?} has no usable host and port")))?;
        let url_database = match database {
            "" => 0,
            number => number.parse().map_err(|_| {
                wrong_setting(format!("the database in {shown:?} must be a number"))
            })?,
        };
        let (username, password) = user_and_password(user_info)?;
        Ok(Self {
            host,
            port,
            tls,
            username: options.username.clone().or(username),
            password: options.password.clone().or(password),
            database: options.database.unwrap_or(url_database),
        })
    }
}

fn host_and_port(place: &str) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = port.map_or(Some(6379), |port| port.parse().ok())?;
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Some((host.to_owned(), port))
}

fn user_and_password(user_info: Option<&str>) -> Result<(Option<String>, Option<Secret>)> {
    let Some(user_info) = user_info else { return Ok((None, None)) };
    let (user, password) = match user_info.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user_info, None),
    };
    let user = percent_decoded(user)?;
    let user = (!user.is_empty()).then_some(user);
    let password = password.map(percent_decoded).transpose()?.map(Secret::Text);
    Ok((user, password))
}

fn percent_decoded(text: &str) -> Result<String> {
    let wrong = || wrong_setting("the user or password in the URL has a broken %-escape");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        out.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address> {
        Address::of(&RedisOptions { url: url.to_owned(), ..RedisOptions::default() })
    }

    #[test]
    fn urls() {
        let plain = address("redis://localhost").unwrap();
        assert_eq!(
            (&*plain.host, plain.port, plain.tls, plain.database),
            ("localhost", 6379, false, 0)
        );
        let full = address("rediss://me:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!((&*full.host, full.port, full.tls, full.database), ("::1", 7000, true, 3));
        assert_eq!(full.username.as_deref(), Some("me"));
        assert!(full.password == Some(Secret::Text("p@ss".into())));
        for wrong in ["localhost", "http://x", "redis://x:y", "redis://x/y", "redis://a%zz:b@x"] {
            let refused = address(wrong).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::InvalidRequest, "{wrong}");
        }
        for later in ["redis-sentinel://a:1,b:2/m", "rediss-cluster://a:1"] {
            assert_eq!(address(later).err().unwrap().kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = RedisOptions {
            url: "redis://anna:hidden@host".into(),
            password: Some(Secret::Text("hidden".into())),
            ..RedisOptions::default()
        };
        let shown = format!("{options:?}");
        assert!(!shown.contains("hidden") && shown.contains("host"), "{shown}");
    }
}
