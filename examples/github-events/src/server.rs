//! APIX inside this process: a broker, the service, and the gateway on a free port.

use std::sync::Arc;

use apix::{Broker, TenantContext, TenantMessagingService};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions};
use apix_gateway::{ApiKey, GatewayConfig, KeySource, Secret};
use apix_redis::{RedisBroker, RedisOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TENANT: &str = "github-example";
const KEY: &str = "example-key-that-is-in-the-source";

/// A running APIX.
pub(crate) struct Server {
    pub(crate) service: TenantMessagingService,
    pub(crate) ctx: TenantContext,
    address: std::net::SocketAddr,
    gateway: JoinHandle<apix::Result<()>>,
    stop: CancellationToken,
    _folder: TempDir,
}

/// Starts APIX on the broker that `name` says, without the example's streams of an earlier run.
pub(crate) async fn start(name: &str) -> anyhow::Result<Server> {
    let folder = tempfile::tempdir()?;
    let broker: Arc<dyn Broker> = match name {
        "memory" => Arc::new(EmbeddedBroker::open(EmbeddedOptions::memory()).await?),
        "embedded" => {
            Arc::new(EmbeddedBroker::open(EmbeddedOptions::directory(folder.path())).await?)
        }
        url => {
            let options = RedisOptions { url: url.to_owned(), ..RedisOptions::default() };
            Arc::new(RedisBroker::connect(options).await?)
        }
    };
    let service = TenantMessagingService::new(broker);
    let ctx = TenantContext::trusted(TENANT)?;
    for stream in service.list_streams(&ctx).await? {
        service.delete_stream(&ctx, stream.as_str()).await?;
    }
    let mut config = GatewayConfig::default();
    config.auth.api_keys.push(ApiKey {
        name: "example".to_owned(),
        key: KeySource::Key(Secret::Inline(KEY.into())),
        organization_id: TENANT.parse()?,
        user_id: None,
        permissions: vec!["admin".to_owned()],
        operator: false,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let gateway = tokio::spawn(apix_gateway::run(listener, service.clone(), config, stopped));
    Ok(Server { service, ctx, address, gateway, stop, _folder: folder })
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn live_url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    pub(crate) fn token(&self) -> String {
        format!("Bearer {KEY}")
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.gateway.await??;
        self.service.broker().close().await;
        Ok(())
    }
}
