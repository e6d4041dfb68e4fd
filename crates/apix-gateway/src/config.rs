//! Settings of the gateway. All of them can be read from a file: field names are those of
//! `apix.toml`, an unknown one is an error, durations are written `"25s"`, `"500ms"` or `"2m"`.

use std::fmt;
use std::time::Duration;

use apix::Result;
use serde::{Deserialize, Deserializer};

use crate::auth::Authenticator;
use crate::cors::check_origins;
use crate::credentials::AuthConfig;
use crate::limits::HandshakeLimit;

/// Everything that [`run`](crate::run) can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Who may call.
    pub auth: AuthConfig,
    /// Bounds of HTTP calls.
    pub http: HttpConfig,
    /// Bounds of live connections.
    pub live: LiveConfig,
    /// How long accepted calls may take to finish after the shutdown began (default 25 s).
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            auth: AuthConfig::default(),
            http: HttpConfig::default(),
            live: LiveConfig::default(),
            drain_timeout: Duration::from_secs(25),
        }
    }
}

impl GatewayConfig {
    /// Refuses settings that cannot work: a key file that cannot be read, a permission that is
    /// not known. [`run`](crate::run) does the same before it accepts a connection.
    pub fn check(&self) -> Result<()> {
        check_origins(&self.http.allowed_origins)?;
        HandshakeLimit::new(None, &self.http.trusted_proxies)?;
        Authenticator::new(&self.auth).map(drop)
    }
}

/// Bounds of HTTP calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The largest body that is no NDJSON, in bytes (default 9 MiB: a full batch of 8 MiB with
    /// what stands around the payloads). Beyond it: `too_large`.
    pub max_body_bytes: usize,
    /// The longest line of an NDJSON body, in bytes (default 2 MiB). A longer one is answered
    /// with `too_large` and skipped.
    pub max_line_bytes: usize,
    /// How long a client may take for the headers of a request, and how long a connection may
    /// stay open between requests (default 60 s).
    #[serde(deserialize_with = "duration")]
    pub header_timeout: Duration,
    /// How long a body may take in all, and an NDJSON body between two pieces (default 60 s).
    /// Beyond it: `request_timeout`.
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    /// How long the broker may take to answer, not counting the wait that a read asks for
    /// (default 30 s). Beyond it: `unavailable`.
    #[serde(deserialize_with = "duration")]
    pub request_timeout: Duration,
    /// How long a client may refuse to take what is sent to it before its connection is cut
    /// (default 60 s).
    #[serde(deserialize_with = "duration")]
    pub write_timeout: Duration,
    /// The hosts, without port, that a `Host` header may name (default any). Beyond them:
    /// `host_not_allowed`.
    pub allowed_hosts: Option<Vec<String>>,
    /// The origins whose pages may call from a browser, such as `https://app.example.com`
    /// (default none). There is no wildcard.
    pub allowed_origins: Vec<String>,
    /// Addresses and blocks of them, such as `10.0.0.0/8`, whose `X-Forwarded-For` names the
    /// client (default none).
    pub trusted_proxies: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 9 << 20,
            max_line_bytes: 2 << 20,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            allowed_hosts: None,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Bounds of live connections: WebSocket and Server-Sent Events.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveConfig {
    /// The largest frame that a client may send, in bytes (default 2 MiB). Beyond it the
    /// connection is closed.
    pub max_frame_bytes: usize,
    /// The most bytes of messages that wait for one connection, over all its channels (default
    /// 1 MiB). Beyond it the oldest give way, and are counted; hybrid events are then read from
    /// their stream. Each channel may keep one message beyond it.
    pub queue_bytes: usize,
    /// The most channels of one connection (default 1,000). Beyond it a subscription is refused
    /// with `too_large`.
    pub max_channels: usize,
    /// The most frames a second that one connection may send (default 1,000, and as many at once
    /// after a quiet second; none for no limit). Beyond it the connection is closed with 4009.
    pub max_frames_per_second: Option<u32>,
    /// The most connections of one tenant, over all processes on the broker (default none).
    /// Beyond it a handshake is refused with `limit`.
    pub max_tenant_connections: Option<usize>,
    /// The most handshakes a second from one address, or one /64 of IPv6 (default none: behind a
    /// proxy that is not in `trusted_proxies` all clients have one address). Beyond it a
    /// handshake is refused with `limit`, before its credential is looked at.
    pub max_handshakes_per_second: Option<u32>,
    /// Whether the channel `connection-status` of each tenant tells of its connections (default
    /// yes).
    pub connection_status: bool,
    /// Whether the stream `connections` of each tenant gets an event for every connection that
    /// begins or ends (default no).
    pub connection_events: bool,
    /// Over how long clients are asked to spread their return when the server stops (default
    /// 5 s).
    #[serde(deserialize_with = "duration")]
    pub reconnect_spread: Duration,
    /// How often a WebSocket is asked for a sign of life; one that has given none when the next
    /// question is due is gone, so a dead client is found within two intervals (default 25 s).
    /// Server-Sent Events carry a comment as often.
    #[serde(deserialize_with = "duration")]
    pub ping_interval: Duration,
    /// How long a WebSocket client may refuse to take what is sent to it before it is closed
    /// with 4008 (default 15 s). Meanwhile the oldest messages give way, and are counted.
    #[serde(deserialize_with = "duration")]
    pub slow_timeout: Duration,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self {
            max_frame_bytes: 2 << 20,
            queue_bytes: 1 << 20,
            max_channels: 1_000,
            max_frames_per_second: Some(1_000),
            max_tenant_connections: None,
            max_handshakes_per_second: None,
            connection_status: true,
            connection_events: false,
            reconnect_spread: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            slow_timeout: Duration::from_secs(15),
        }
    }
}

/// Reads a duration such as `"25s"`, `"500ms"` or `"2m"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl serde::de::Visitor<'_> for Text {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"25s\", \"500ms\" or \"2m\"")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text)
                .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Text)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("25s"), Some(Duration::from_secs(25)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "25", "s", "-1s", "1h", "1.5s", " 1s", "99999999999999999999s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn unknown_settings_are_refused_by_name() {
        let read = |text: &str| serde_json::from_str::<GatewayConfig>(text);
        let config = read(r#"{"drain_timeout":"3s","http":{"max_body_bytes":5}}"#).unwrap();
        assert_eq!((config.drain_timeout.as_secs(), config.http.max_body_bytes), (3, 5));
        for wrong in [r#"{"htpp":{}}"#, r#"{"http":{"max_body":1}}"#, r#"{"drain_timeout":25}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
