//! What `apix serve` is told: flags over `APIX_*` variables over `apix.toml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use apix::{Durability, Limits};
use apix_gateway::{Algorithm, GatewayConfig, JwtKey, Secret};
use clap::Args;

use crate::broker_url::{BrokerUrl, parse_durability};
use crate::config_file::{FileConfig, LimitsSection, RedisSection};
use crate::failure::Failure;
use crate::tls::Identity;

/// Where `apix serve` listens unless it is told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:2749";

/// The file that is read where none is named.
const DEFAULT_FILE: &str = "apix.toml";

/// Flags of `apix serve`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    /// Try it out: a tenant `demo` with a fresh token, on loopback only
    #[arg(long)]
    pub(crate) dev: bool,
    /// Configuration file (apix.toml of this folder, if there is one)
    #[arg(long, env = "APIX_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:2749]
    #[arg(long, env = "APIX_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where events are kept: embedded:DIR, memory:, redis:// or rediss:// [default:
    /// embedded:apix-data]
    #[arg(long, env = "APIX_BROKER", value_name = "URL", hide_env_values = true)]
    broker: Option<BrokerUrl>,
    /// How safe an event is when its id is returned: disk, disk-interval or disk-interval:MS,
    /// memory, replicas:N [default: disk when embedded, else memory]
    #[arg(long, env = "APIX_DURABILITY", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// Serve TLS with this certificate chain, a PEM file
    #[arg(long, env = "APIX_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, a PEM file
    #[arg(long, env = "APIX_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How long accepted requests may take to finish at shutdown, such as 25s [default: 25s]
    #[arg(long, env = "APIX_DRAIN_TIMEOUT", value_parser = parse_duration, value_name = "TIME")]
    drain_timeout: Option<Duration>,
    /// What to log: error, warn, info, debug, or a filter such as info,apix_redis=debug
    /// [default: info]
    #[arg(long, env = "APIX_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, env = "APIX_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print one line of JSON on standard output when ready: {"url", "broker", "token"?}
    #[arg(long)]
    pub(crate) json: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which broker, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct BrokerConfig {
    pub(crate) url: BrokerUrl,
    /// `None`: what the broker's own default is.
    pub(crate) durability: Option<Durability>,
    pub(crate) tail_cache_bytes: Option<usize>,
    pub(crate) redis: RedisSection,
}

/// Everything that `apix serve` needs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: String,
    pub(crate) broker: BrokerConfig,
    pub(crate) tls: Option<Identity>,
    pub(crate) limits: Limits,
    pub(crate) gateway: GatewayConfig,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// Puts flags, environment and file together.
    pub(crate) fn load(args: &ServeArgs) -> Result<Self> {
        let environment = std::env::vars_os().collect();
        Self::assemble(args, &environment, Path::new(DEFAULT_FILE))
    }

    fn assemble(
        args: &ServeArgs,
        environment: &BTreeMap<OsString, OsString>,
        default_file: &Path,
    ) -> Result<Self> {
        let path = match &args.config {
            Some(path) => Some(path.clone()),
            None => default_file.exists().then(|| default_file.to_owned()),
        };
        let file = match &path {
            Some(path) => FileConfig::read(path)?,
            None => FileConfig::default(),
        };
        let environment = Environment(environment);
        let broker = BrokerConfig {
            url: given_or_read("broker", args.broker.clone(), file.broker, str::parse, &path)?
                .unwrap_or_default(),
            durability: given_or_read(
                "durability",
                args.durability,
                file.durability,
                parse_durability,
                &path,
            )?,
            tail_cache_bytes: file.embedded.tail_cache_bytes,
            redis: environment.redis(file.redis)?,
        };
        let drain = file.drain_timeout;
        let drain_timeout =
            given_or_read("drain_timeout", args.drain_timeout, drain, parse_duration, &path)?
                .unwrap_or(GatewayConfig::default().drain_timeout);
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => Some(Identity { cert: cert.clone(), key: key.clone() }),
            _ => file.tls.map(|tls| Identity { cert: tls.cert, key: tls.key }),
        };
        let mut auth = file.auth;
        auth.jwt_keys.extend(environment.jwt_key()?);
        Ok(Self {
            listen: args.listen.clone().or(file.listen).unwrap_or_else(|| DEFAULT_LISTEN.into()),
            broker,
            tls,
            limits: limits(&file.limits),
            gateway: GatewayConfig { auth, http: file.http, live: file.live, drain_timeout },
            log: args.log.clone().or(file.log).unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            file: path,
        })
    }

    /// Whether anybody could get in.
    pub(crate) fn has_credentials(&self) -> bool {
        let auth = &self.gateway.auth;
        !(auth.jwt_keys.is_empty() && auth.jwks.is_empty() && auth.api_keys.is_empty())
    }
}

fn limits(section: &LimitsSection) -> Limits {
    let default = Limits::default();
    Limits {
        max_payload_bytes: section.max_payload_bytes.unwrap_or(default.max_payload_bytes),
        max_metadata_bytes: section.max_metadata_bytes.unwrap_or(default.max_metadata_bytes),
        max_batch_events: section.max_batch_events.unwrap_or(default.max_batch_events),
        max_batch_bytes: section.max_batch_bytes.unwrap_or(default.max_batch_bytes),
    }
}

/// What a flag or a variable gives, or else what the file does: that is still text, and an error
/// in it names the file and the key.
fn given_or_read<T>(
    key: &str,
    given: Option<T>,
    read: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
    path: &Option<PathBuf>,
) -> Result<Option<T>> {
    let (None, Some(text)) = (&given, read) else { return Ok(given) };
    let file = path.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
    parse(&text).map(Some).map_err(|fault| Failure::usage(format!("{file}: {key}: {fault}")))
}

/// Variables that have no flag, because flags show in process lists.
struct Environment<'a>(&'a BTreeMap<OsString, OsString>);

impl Environment<'_> {
    /// The variable, if it is set and not empty.
    fn get(&self, name: &str) -> Result<Option<String>> {
        match self.0.get(&OsString::from(name)) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None => Err(Failure::usage(format!("{name} is not UTF-8"))),
            },
        }
    }

    fn redis(&self, file: RedisSection) -> Result<RedisSection> {
        let path = |name| self.get(name).map(|value| value.map(PathBuf::from));
        let database = match self.get("APIX_REDIS_DATABASE")? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Failure::usage(format!("APIX_REDIS_DATABASE is {text:?}; it must be a number"))
            })?),
        };
        let password = self.get("APIX_REDIS_PASSWORD")?;
        let password_file = path("APIX_REDIS_PASSWORD_FILE")?;
        // A password of the environment replaces the file's, however that one was given.
        let (password, password_file) = if password.is_some() || password_file.is_some() {
            (password, password_file)
        } else {
            (file.password, file.password_file)
        };
        Ok(RedisSection {
            username: self.get("APIX_REDIS_USERNAME")?.or(file.username),
            password,
            password_file,
            database: database.or(file.database),
            ca: path("APIX_REDIS_CA")?.or(file.ca),
            client_cert: path("APIX_REDIS_CERT")?.or(file.client_cert),
            client_key: path("APIX_REDIS_KEY")?.or(file.client_key),
        })
    }

    /// `APIX_JWT_SECRET` or `APIX_JWT_SECRET_FILE`: an HS256 key beside those of the file, for
    /// the tenants of `APIX_JWT_TENANTS` (patterns with commas between them; all, if not set).
    fn jwt_key(&self) -> Result<Option<JwtKey>> {
        let secret = match (self.get("APIX_JWT_SECRET")?, self.get("APIX_JWT_SECRET_FILE")?) {
            (Some(secret), _) => Secret::text(secret),
            (None, Some(path)) => Secret::File(path.into()),
            (None, None) => return Ok(None),
        };
        let tenants = self.get("APIX_JWT_TENANTS")?.unwrap_or_else(|| "*".to_owned());
        Ok(Some(JwtKey {
            kid: None,
            algorithm: Algorithm::HS256,
            secret,
            tenants: tenants.split(',').map(|tenant| tenant.trim().to_owned()).collect(),
            issuer: None,
            audience: None,
        }))
    }
}

/// Reads `25s`, `500ms` or `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as 25s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &ServeArgs, environment: &[(&str, &str)], file: Option<&str>) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("apix.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let environment =
            environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Config::assemble(args, &environment, &path)
    }

    #[test]
    fn defaults() {
        let config = load(&ServeArgs::default(), &[], None).unwrap();
        assert_eq!(config.listen, DEFAULT_LISTEN);
        assert_eq!(config.broker.url, BrokerUrl::Embedded("apix-data".into()));
        assert_eq!(config.broker.durability, None);
        assert_eq!(config.gateway.drain_timeout, Duration::from_secs(25));
        assert!(!config.has_credentials());
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "listen = \"127.0.0.1:1\"\nbroker = \"memory:\"\ndrain_timeout = \"3s\"\n";
        let args = ServeArgs { listen: Some("127.0.0.1:2".to_owned()), ..ServeArgs::default() };
        let config = load(&args, &[], Some(file)).unwrap();
        assert_eq!(config.listen, "127.0.0.1:2");
        assert_eq!(config.broker.url, BrokerUrl::Memory);
        assert_eq!(config.gateway.drain_timeout, Duration::from_secs(3));
    }

    #[test]
    fn secrets_come_from_the_environment_too() {
        let secret = "0123456789abcdef0123456789abcdef";
        let environment = [
            ("APIX_JWT_SECRET", secret),
            ("APIX_JWT_TENANTS", "acme, shop-*"),
            ("APIX_REDIS_PASSWORD", "hush"),
            ("APIX_REDIS_DATABASE", "3"),
        ];
        let file = "[redis]\npassword_file = \"/x\"\ndatabase = 1\nusername = \"me\"\n";
        let config = load(&ServeArgs::default(), &environment, Some(file)).unwrap();
        assert!(config.has_credentials());
        assert_eq!(config.gateway.auth.jwt_keys[0].tenants, ["acme", "shop-*"]);
        let redis = &config.broker.redis;
        assert_eq!(redis.password.as_deref(), Some("hush"));
        assert_eq!((redis.password_file.as_ref(), redis.database), (None, Some(3)));
        assert_eq!(redis.username.as_deref(), Some("me"));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && !shown.contains(secret), "{shown}");
    }

    #[test]
    fn a_wrong_file_is_explained_in_one_line() {
        let refused = |file: &str| {
            let error = load(&ServeArgs::default(), &[], Some(file)).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
            assert!(error.contains("apix.toml"), "{error}");
            error
        };
        let unknown = refused("listen = \"x:1\"\nlissten = \"y\"\n");
        assert!(unknown.contains("line 2") && unknown.contains("lissten"), "{unknown}");
        assert!(unknown.contains("`broker`") && unknown.contains("`listen`"), "{unknown}");
        let section = refused("[http]\nmax_bdy = 1\n");
        assert!(section.contains("line 2") && section.contains("max_body_bytes"), "{section}");
        let broker = refused("broker = \"redis-cluster://a:1\"");
        assert!(broker.contains("broker: ") && broker.contains("not supported"), "{broker}");
        let typed = refused("listen = 5");
        assert!(typed.contains("line 1"), "{typed}");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "5h", "-1s", "s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
