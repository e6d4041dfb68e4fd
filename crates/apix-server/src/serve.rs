//! `apix serve`: puts broker, gateway and listener together. The only file that names both brokers.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use apix::{Broker, Durability, ErrorKind, TenantMessagingService};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions, Location};
use apix_redis::{RedisBroker, RedisOptions, TlsOptions};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::broker_url::{BrokerUrl, durability_text};
use crate::config::{BrokerConfig, Config, LogFormat, ServeArgs};
use crate::config_file::RedisSection;
use crate::dev;
use crate::failure::{Class, Failure};
use crate::listener::{TlsListener, bind};
use crate::signals;

/// Serves until a signal says stop.
pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let mut config = Config::load(&args)?;
    start_log(&config)?;
    let dev_token = if args.dev {
        let token = dev::token()?;
        dev::configure(&mut config.gateway, &token)?;
        Some(token)
    } else {
        require_credentials(&config)?;
        None
    };
    config.gateway.check().map_err(|fault| Failure::usage(format!("auth: {fault}")))?;
    let tls = config.tls.as_ref().map(|identity| identity.server_config()).transpose()?;
    if let Some(file) = &config.file {
        tracing::info!(file = %file.display(), "configuration read");
    }
    let listener = bind(&config.listen, args.dev).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    // From here on a signal must let go of the broker's storage.
    let shutdown = signals::shutdown()?;
    let broker = open_broker(&config.broker).await?;
    announce(&config.broker.url, &*broker);
    let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    tracing::info!(%url, "listening");
    let printed = print_ready(&args, &url, &*broker, dev_token.as_deref());
    let service = TenantMessagingService::with_limits(Arc::clone(&broker), config.limits);
    let served = match printed {
        Err(fault) => Err(fault),
        Ok(()) => match tls {
            None => serve(listener, service, config.gateway, shutdown).await,
            Some(tls) => serve_tls(listener, tls, service, config.gateway, shutdown).await,
        },
    };
    broker.close().await;
    tracing::info!("stopped");
    served
}

async fn serve(
    listener: TcpListener,
    service: TenantMessagingService,
    config: apix_gateway::GatewayConfig,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    // Small answers go out at once; a socket that refuses this is about to fail anyway.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok(apix_gateway::run(listener, service, config, signals::asked(shutdown)).await?)
}

async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    service: TenantMessagingService,
    config: apix_gateway::GatewayConfig,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let listener = TlsListener::new(listener, tls).context("the listener has no address")?;
    Ok(apix_gateway::run(listener, service, config, signals::asked(shutdown)).await?)
}

/// Opens the broker that `config` names.
pub(crate) async fn open_broker(config: &BrokerConfig) -> Result<Arc<dyn Broker>> {
    let opened: apix::Result<Arc<dyn Broker>> = match &config.url {
        BrokerUrl::Embedded(folder) => {
            open_embedded(Location::Directory(folder.clone()), config).await
        }
        BrokerUrl::Memory => open_embedded(Location::Memory, config).await,
        BrokerUrl::Redis(url) => open_redis(url, config).await,
    };
    opened.map_err(|fault| {
        let class = match fault.kind() {
            ErrorKind::InvalidRequest | ErrorKind::Unsupported => Class::Usage,
            ErrorKind::Unavailable if matches!(config.url, BrokerUrl::Redis(_)) => {
                Class::Unreachable
            }
            _ => Class::Other,
        };
        let said = format!("{:#}", anyhow::Error::from(fault));
        Failure::error(class, format!("the broker {} cannot be used: {said}", config.url))
    })
}

async fn open_embedded(location: Location, config: &BrokerConfig) -> apix::Result<Arc<dyn Broker>> {
    let default = EmbeddedOptions::default();
    let durability = match (&location, config.durability) {
        // Asking for what the location cannot give is an error, not something to pass over.
        (Location::Memory, Some(durability)) if durability != Durability::Memory => {
            return Err(apix::Error::new(
                ErrorKind::Unsupported,
                "memory: keeps nothing on disk; use the durability memory, or the broker \
                 embedded:DIR",
            ));
        }
        (Location::Memory, _) => Durability::Memory,
        (Location::Directory(_), asked) => asked.unwrap_or(default.durability),
    };
    let options = EmbeddedOptions {
        location,
        durability,
        tail_cache_bytes: config.tail_cache_bytes.unwrap_or(default.tail_cache_bytes),
        ..default
    };
    Ok(Arc::new(EmbeddedBroker::open(options).await?))
}

async fn open_redis(url: &str, config: &BrokerConfig) -> apix::Result<Arc<dyn Broker>> {
    let default = RedisOptions::default();
    let RedisSection { username, password, password_file, database, ca, client_cert, client_key } =
        config.redis.clone();
    let from_file = |file: PathBuf| apix_redis::Secret::File(file);
    let options = RedisOptions {
        url: url.to_owned(),
        username,
        password: password.map(apix_redis::Secret::Text).or(password_file.map(from_file)),
        database,
        tls: TlsOptions { ca_file: ca, cert_file: client_cert, key_file: client_key },
        durability: config.durability.unwrap_or(default.durability),
        ..default
    };
    Ok(Arc::new(RedisBroker::connect(options).await?))
}

fn announce(url: &BrokerUrl, broker: &dyn Broker) {
    let info = broker.info();
    let durability = durability_text(info.durability);
    tracing::info!(broker = %url, name = info.name, durability, "broker ready");
    for warning in info.warnings {
        tracing::warn!(broker = %url, warning, "broker");
    }
}

fn print_ready(
    args: &ServeArgs,
    url: &str,
    broker: &dyn Broker,
    dev_token: Option<&str>,
) -> Result<()> {
    let text = if args.json {
        let info = broker.info();
        let mut ready = serde_json::json!({
            "url": url,
            "broker": info.name,
            "durability": durability_text(info.durability),
        });
        if let Some(token) = dev_token {
            ready["token"] = token.into();
        }
        format!("{ready}\n")
    } else {
        match dev_token {
            Some(token) => dev::welcome(url, token)?,
            None => return Ok(()),
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// Without a credential every request would be refused, which nobody can want.
fn require_credentials(config: &Config) -> Result<()> {
    if config.has_credentials() {
        return Ok(());
    }
    Err(Failure::usage(
        "no credentials are configured, so nobody could get in: to try it, use apix serve --dev; \
         to serve, put [[auth.api_keys]] or [[auth.jwt_keys]] into apix.toml (apix token new-key \
         makes a key and its entry) or set APIX_JWT_SECRET",
    ))
}

fn start_log(config: &Config) -> Result<()> {
    let filter = EnvFilter::builder().parse(&config.log).map_err(|fault| {
        Failure::usage(format!(
            "the log filter {:?} is wrong ({fault}); use error, warn, info or debug",
            config.log
        ))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
