//! The broker's address and how safe its events are to be, as a user writes them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use apix::Durability;

/// The interval of `disk-interval` without a number, in milliseconds.
const DEFAULT_INTERVAL_MS: u64 = 100;

/// Where the events are kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum BrokerUrl {
    /// In this process, in a folder.
    Embedded(PathBuf),
    /// In this process, nothing on disk.
    Memory,
    /// On one Redis or Valkey server; the text is a `redis://` or `rediss://` URL.
    Redis(String),
}

impl Default for BrokerUrl {
    fn default() -> Self {
        Self::Embedded(PathBuf::from("apix-data"))
    }
}

/// Without the user and the password that a URL may hold.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(folder) => write!(f, "embedded:{}", folder.display()),
            Self::Memory => f.write_str("memory:"),
            Self::Redis(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("redis", ""));
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "{scheme}://{place}")
            }
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "use embedded:DIR, memory:, redis://HOST:PORT or rediss://HOST:PORT";
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(format!("{text:?} is not a broker URL; {FORMS}"));
        };
        match scheme {
            "embedded" if rest.is_empty() => {
                Err("embedded: needs a folder, as in embedded:apix-data".to_owned())
            }
            "embedded" => Ok(Self::Embedded(PathBuf::from(rest))),
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err("memory: takes nothing after the colon".to_owned()),
            "redis" | "rediss" if rest.len() > 2 && rest.starts_with("//") => {
                Ok(Self::Redis(text.to_owned()))
            }
            "redis" | "rediss" => {
                Err(format!("{scheme}: needs a host, as in {scheme}://127.0.0.1:6379"))
            }
            "redis-sentinel" | "rediss-sentinel" | "redis-cluster" | "rediss-cluster" => {
                Err(format!("{scheme}:// is not supported by this version; {FORMS}"))
            }
            _ => Err(format!("there is no broker {scheme:?}; {FORMS}")),
        }
    }
}

/// Reads `disk`, `disk-interval[:MS]`, `memory` or `replicas:N`.
pub(crate) fn parse_durability(text: &str) -> Result<Durability, String> {
    let (word, number) = match text.split_once(':') {
        Some((word, number)) => (word, Some(number)),
        None => (text, None),
    };
    match (word, number) {
        ("disk", None) => Ok(Durability::Disk),
        ("memory", None) => Ok(Durability::Memory),
        ("disk-interval", None) => Ok(Durability::DiskInterval { every_ms: DEFAULT_INTERVAL_MS }),
        ("disk-interval", Some(ms)) => match ms.parse() {
            Ok(every_ms @ 1..=60_000) => Ok(Durability::DiskInterval { every_ms }),
            _ => Err("the interval of disk-interval:MS is 1 to 60000 milliseconds".to_owned()),
        },
        ("replicas", Some(count)) => match count.parse() {
            Ok(count @ 1..) => Ok(Durability::Replicas(count)),
            _ => Err("the number of replicas:N is 1 to 255".to_owned()),
        },
        _ => Err(format!(
            "there is no durability {text:?}; use disk, disk-interval[:MS], memory or replicas:N"
        )),
    }
}

/// As [`parse_durability`] reads it.
pub(crate) fn durability_text(durability: Durability) -> String {
    match durability {
        Durability::Disk => "disk".to_owned(),
        Durability::DiskInterval { every_ms } => format!("disk-interval:{every_ms}"),
        Durability::Memory => "memory".to_owned(),
        Durability::Replicas(count) => format!("replicas:{count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_broker_url() {
        let parse = |text: &str| text.parse::<BrokerUrl>();
        assert_eq!(parse("embedded:a/b").unwrap(), BrokerUrl::Embedded("a/b".into()));
        assert_eq!(parse("memory:").unwrap(), BrokerUrl::Memory);
        for text in ["redis://h", "rediss://u:p@h:1/2"] {
            assert_eq!(parse(text).unwrap(), BrokerUrl::Redis(text.to_owned()));
        }
        for (text, word) in [
            ("redis-cluster://a:1", "not supported"),
            ("rediss-sentinel://a:1/m", "not supported"),
            ("embedded:", "needs a folder"),
            ("memory:x", "nothing after"),
            ("redis:", "needs a host"),
            ("nats://x", "no broker"),
            ("apix-data", "not a broker URL"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url: BrokerUrl = "redis://me:hush@h:1/2".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "redis://h:1/2 redis://h:1/2");
    }

    #[test]
    fn durabilities_print_as_they_are_read() {
        for text in ["disk", "disk-interval:250", "memory", "replicas:2"] {
            assert_eq!(durability_text(parse_durability(text).unwrap()), text);
        }
        assert_eq!(
            parse_durability("disk-interval").unwrap(),
            Durability::DiskInterval { every_ms: 100 }
        );
        for text in ["", "disk:1", "disk-interval:0", "replicas", "replicas:0", "fast"] {
            assert!(parse_durability(text).is_err(), "{text}");
        }
    }
}
