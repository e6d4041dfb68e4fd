//! What all operations share: the connections, the scripts, what is remembered.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use apix::{BrokerInfo, Epoch, GroupKey, GroupSettings, Result};

use crate::connect::Topology;
use crate::error::{closed, has_code};
use crate::link::Link;
use crate::local::{LocalGroup, Locals};
use crate::options::RedisOptions;
use crate::pool::Pool;
use crate::pubsub::PubSub;
use crate::resp::{Raw, Reply};
use crate::scripts::{Script, Scripts};
use crate::wire::Arguments;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) topology: Topology,
    pub(crate) scripts: Scripts,
    pub(crate) pool: Pool,
    pub(crate) pubsub: Arc<PubSub>,
    pub(crate) locals: Arc<Locals>,
    pub(crate) options: RedisOptions,
    pub(crate) info: BrokerInfo,
    /// No more calls are taken.
    pub(crate) refusing: CancellationToken,
    /// Connections and what runs in the background end.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    /// The link to the server that has `key`.
    pub(crate) fn link(&self, key: &str) -> &Link {
        self.topology.link_for(key)
    }

    /// Fails once the broker has been closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.refusing.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// What every script on a group begins with. None but those that make streams use the epoch.
    pub(crate) fn group_arguments(local: &LocalGroup, epoch: &str) -> Arguments {
        Arguments::with_keys(local.keys.all()).and(epoch).and(local.name.as_str()).and(&local.bell)
    }

    /// Runs a script on a group.
    pub(crate) async fn group_script(
        &self,
        script: &Script,
        local: &LocalGroup,
        arguments: &Arguments,
    ) -> Result<Raw> {
        script.run(self.link(local.keys.stream()), arguments).await
    }

    /// Makes the group, and its stream, where there is none: from its floor if it was lost.
    pub(crate) async fn make_group(&self, local: &LocalGroup) -> Result<()> {
        let stream = self.locals.stream(&local.stream);
        self.list_stream(&stream).await?;
        let arguments = Self::group_arguments(local, Epoch::random()?.as_str());
        let made = self.group_script(&self.scripts.make_group, local, &arguments).await?.reply()?;
        if made == Reply::Int(1) {
            tracing::info!(group = %local.name, stream = %local.stream, "made the consumer group");
        }
        self.ensured(&stream, false).await;
        Ok(())
    }

    /// The group's settings, at most a second old.
    pub(crate) async fn settings(&self, local: &LocalGroup) -> Result<Arc<GroupSettings>> {
        if let Some(settings) = local.settings() {
            return Ok(settings);
        }
        let link = self.link(local.keys.stream());
        let stored = link.command(&["HGET", local.keys.group(), "settings"]).await?.reply()?;
        let settings = Arc::new(group_settings(stored.utf8().unwrap_or_default())?);
        local.remember_settings(&settings);
        Ok(settings)
    }

    pub(crate) fn local_group(&self, group: &GroupKey) -> Arc<LocalGroup> {
        self.locals.group(group)
    }
}

/// Settings as they are stored; the defaults where nothing is.
pub(crate) fn group_settings(stored: &str) -> Result<GroupSettings> {
    if stored.is_empty() {
        return Ok(GroupSettings::default());
    }
    apix::json::read_stored(stored)
}

/// Whether the group, or its stream, is not there (any more).
pub(crate) fn is_group_lost(error: &apix::Error) -> bool {
    has_code(error, "NOGROUP") || has_code(error, "UNBLOCKED")
}
