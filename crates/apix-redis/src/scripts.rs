//! The operations that must be atomic, each a script, run by its digest.
//!
//! A server that does not know a digest (after SCRIPT FLUSH, a restart or a failover) is given the
//! source, which it then remembers.

use sha1::{Digest, Sha1};

use apix::{Error, ErrorKind, GroupSettings, Result, StreamSettings};

use crate::error::malformed;
use crate::link::Link;
use crate::resp::{Raw, Reply};
use crate::wire::{Arguments, Pipeline};

/// A script with the name that the server knows it by.
#[derive(Debug)]
pub(crate) struct Script {
    source: String,
    digest: String,
}

impl Script {
    fn new(source: String) -> Self {
        let digest = Sha1::digest(source.as_bytes());
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { source, digest }
    }

    /// The command that runs it by its digest, to be part of a pipeline.
    pub(crate) fn by_digest(&self, arguments: &Arguments) -> Vec<u8> {
        arguments.command("EVALSHA", &self.digest)
    }

    /// Runs it.
    pub(crate) async fn run(&self, link: &Link, arguments: &Arguments) -> Result<Raw> {
        let raw = self.send(link, self.by_digest(arguments)).await?;
        if !is_unknown(&raw) {
            return Ok(raw);
        }
        self.run_by_source(link, arguments).await
    }

    /// Runs it where the server did not know its digest. Nothing was done then.
    pub(crate) async fn run_by_source(&self, link: &Link, arguments: &Arguments) -> Result<Raw> {
        self.send(link, arguments.command("EVAL", &self.source)).await
    }

    /// Runs it and reads the reply as a tree.
    pub(crate) async fn reply(&self, link: &Link, arguments: &Arguments) -> Result<Reply> {
        self.run(link, arguments).await?.reply()
    }

    async fn send(&self, link: &Link, command: Vec<u8>) -> Result<Raw> {
        let mut pipeline = Pipeline::default();
        pipeline.push_written(&command);
        link.call(pipeline).await?.pop().ok_or_else(|| malformed("no reply"))
    }
}

/// Whether the server did not know the script.
pub(crate) fn is_unknown(raw: &Raw) -> bool {
    raw.error().is_some_and(|text| text.starts_with(b"NOSCRIPT"))
}

macro_rules! scripts {
    ($($beginning:ident: [$($script:ident),*]),*) => {
        /// Every script.
        #[derive(Debug)]
        pub(crate) struct Scripts { $($(pub(crate) $script: Script,)*)* }

        impl Scripts {
            /// The scripts, each with the beginning of its kind.
            pub(crate) fn new() -> Result<Self> {
                let beginnings = Beginnings::new()?;
                Ok(Self { $($($script: Script::new(format!(
                    "{}{}",
                    beginnings.$beginning,
                    include_str!(concat!("scripts/", stringify!($script), ".lua")),
                )),)*)* })
            }

            fn all(&self) -> impl Iterator<Item = &Script> {
                [$($(&self.$script,)*)*].into_iter()
            }
        }
    };
}

scripts! {
    alone: [glance, confirm],
    append: [append, hybrid],
    stream: [make_stream, configure_stream, delete_stream, trim, stored_bytes],
    group: [
        make_group, claim, recount, settle, extend, acknowledge, bury, sweep, configure_group, seek,
        delete_group, dead_list, dead_settle, group_stats
    ]
}

/// Where memory is full, no more is stored; but what gives memory back (retention, settlements), what
/// keeps deliveries coming, and settings go on.
const ALSO_WHEN_FULL: &str = "#!lua flags=allow-oom\n";

/// What scripts of each kind begin with. Those that append get no more than they need: Redis makes
/// each function anew at each call.
struct Beginnings {
    alone: &'static str,
    append: String,
    stream: String,
    group: String,
}

impl Beginnings {
    fn new() -> Result<Self> {
        let settings = StreamSettings::default();
        let append = format!(
            "local KEY_AGE, MAX_KEYS = {}, {}\n{}{}",
            settings.idempotency.max_age_ms,
            settings.idempotency.max_keys,
            include_str!("scripts/stream.lua"),
            include_str!("scripts/idempotency.lua"),
        );
        let stream = format!(
            "{ALSO_WHEN_FULL}local STREAM_DEFAULTS = '{}'\n{append}{}",
            json(&settings)?,
            include_str!("scripts/entries.lua"),
        );
        let group = format!(
            "{stream}local GROUP_DEFAULTS = '{}'\n{}",
            json(&GroupSettings::default())?,
            include_str!("scripts/group.lua"),
        );
        Ok(Self { alone: ALSO_WHEN_FULL, append, stream, group })
    }
}

impl Scripts {
    /// Gives the server all sources, so that the first calls need not. A server that refuses is
    /// given each when it is needed.
    pub(crate) async fn preload(&self, link: &Link) -> Result<()> {
        let mut pipeline = Pipeline::default();
        for script in self.all() {
            pipeline.push(&["SCRIPT", "LOAD", &script.source]);
        }
        for raw in link.call(pipeline).await? {
            // A script that does not compile is a fault of ours.
            if raw.error().is_some_and(|text| !text.starts_with(b"NOPERM")) {
                raw.ok()?;
            }
        }
        Ok(())
    }
}

/// Settings as a literal of a script; they contain no quote of Lua's and no backslash.
fn json<T: serde::Serialize>(settings: &T) -> Result<String> {
    serde_json::to_string(settings).map_err(|fault| {
        Error::new(ErrorKind::Internal, "default settings cannot be written").with_source(fault)
    })
}
