//! Streams as a whole: past events, settings, deletion, the list of them, and what feeds a channel.

use apix::{
    ChannelKey, Epoch, Error, Feed, MessageId, Order, RangePage, RangeQuery, Result, StreamKey,
    StreamName, StreamSettings, TenantId,
};

use crate::entry;
use crate::error::{malformed, wrong_setting};
use crate::keys;
use crate::local::LocalStream;
use crate::resp::{Raw, Reply};
use crate::shared::Shared;
use crate::wire::{Arguments, Pipeline, id_text};

/// With a filter, so many entries at least are looked at for one page.
const LOOKED_AT: usize = 200;
/// and at no more than one for so many bytes of the page that is asked for.
const PAGE_EVENT_BYTES: usize = 4 << 10;

pub(crate) fn no_such_stream(stream: &StreamKey) -> Error {
    Error::not_found(format!("there is no stream {:?}", stream.stream().as_str()))
}

impl Shared {
    pub(crate) async fn read_range(
        &self,
        stream: &StreamKey,
        query: &RangeQuery,
    ) -> Result<RangePage> {
        let local = self.locals.stream(stream);
        let limit = query.limit.max(1);
        let filtered = query.event_type.is_some() || query.channel.is_some();
        let look_at = if filtered { limit.max(LOOKED_AT) } else { limit };
        // A small page of large events is not worth reading many of them for.
        let look_at = look_at.min((query.limit_bytes / PAGE_EVENT_BYTES).max(16));
        let (from, to) = (id_text(query.from), id_text(query.to));
        let (command, first, second) = match query.order {
            Order::Ascending => ("XRANGE", from, to),
            Order::Descending => ("XREVRANGE", to, from),
        };
        let key = &*local.keys.stream;
        let mut pipeline = Pipeline::of(&["EXISTS", key]);
        pipeline.push(&[command, key, &first, &second, "COUNT", &look_at.to_string()]);
        let replies = self.link(key).call(pipeline).await?;
        let [exists, entries] = &replies[..] else { return Err(malformed("two replies")) };
        if exists.cursor()?.int()? == 0 {
            return Err(no_such_stream(stream));
        }
        let entries = entry::read_entries(&mut entries.cursor()?, stream.tenant())?;
        let all_read = entries.len() < look_at;
        let mut page = RangePage::default();
        let (mut last, mut bytes) = (None, 0);
        let count = entries.len();
        for (index, (id, event)) in entries.into_iter().enumerate() {
            last = Some(id);
            if let Ok(event) = event
                && query.takes(&event)
            {
                bytes += event.payload.len();
                page.events.push(event);
            }
            if query.is_full(&page.events, bytes) && index + 1 < count {
                page.more_after = last;
                return Ok(page);
            }
        }
        page.more_after = if all_read { None } else { last };
        Ok(page)
    }

    pub(crate) async fn configure_stream(
        &self,
        stream: &StreamKey,
        settings: &StreamSettings,
    ) -> Result<()> {
        settings.check()?;
        let local = self.locals.stream(stream);
        self.list_stream(&local).await?;
        let settings = serde_json::to_string(settings)
            .map_err(|fault| wrong_setting("the settings cannot be stored").with_source(fault))?;
        let arguments =
            Arguments::with_keys(&local.keys.all()).and(Epoch::random()?.as_str()).and(settings);
        let link = self.link(&local.keys.stream);
        self.scripts.configure_stream.run(link, &arguments).await?.ok()?;
        self.ensured(&local, false).await;
        Ok(())
    }

    pub(crate) async fn delete_stream(&self, stream: &StreamKey) -> Result<()> {
        let local = self.locals.stream(stream);
        local.set_ensured(false);
        let arguments = Arguments::with_keys(&local.keys.all()).and("");
        let link = self.link(&local.keys.stream);
        let existed = self.scripts.delete_stream.reply(link, &arguments).await?;
        let set = &*local.keys.tenant_streams;
        self.link(set).command(&["SREM", set, stream.stream().as_str()]).await?.ok()?;
        // Somebody may have made it again in between, and would not be listed now.
        if self.exists(&local).await? {
            self.list_stream(&local).await?;
        }
        for group in local.groups() {
            local.forget_group(&group.name);
        }
        if existed == Reply::Int(1) { Ok(()) } else { Err(no_such_stream(stream)) }
    }

    async fn exists(&self, local: &LocalStream) -> Result<bool> {
        let key = &*local.keys.stream;
        Ok(self.link(key).command(&["EXISTS", key]).await?.cursor()?.int()? == 1)
    }

    pub(crate) async fn list_streams(&self, tenant: &TenantId) -> Result<Vec<StreamName>> {
        let set = keys::streams(tenant);
        let listed = self.link(&set).command(&["SMEMBERS", &set]).await?.reply()?;
        let mut names: Vec<StreamName> = listed
            .array()
            .iter()
            .filter_map(|name| StreamName::new(name.utf8()?.to_owned()).ok())
            .collect();
        names.sort();
        // A stream is listed before it is made, and another service may have deleted it.
        let mut existing = Vec::with_capacity(names.len());
        for names in names.chunks(1_000) {
            let mut pipeline = Pipeline::default();
            for name in names {
                pipeline.push(&["EXISTS", &keys::stream_of(tenant, name)]);
            }
            let replies = self.link(&set).call(pipeline).await?;
            for (name, exists) in names.iter().zip(replies) {
                if exists.cursor()?.int()? == 1 {
                    existing.push(name.clone());
                }
            }
        }
        Ok(existing)
    }

    pub(crate) async fn channel_feeds(&self, channel: &ChannelKey) -> Result<Vec<Feed>> {
        let set = keys::feeds(channel);
        let listed = self.link(&set).command(&["SMEMBERS", &set]).await?.reply()?;
        let mut names: Vec<StreamName> = listed
            .array()
            .iter()
            .filter_map(|name| StreamName::new(name.utf8()?.to_owned()).ok())
            .collect();
        names.sort();
        let mut feeds = Vec::with_capacity(names.len());
        for name in names {
            let local = self.locals.stream(&channel.stream(name));
            let keys = &local.keys;
            let mut pipeline = Pipeline::of(&["XINFO", "STREAM", &keys.stream]);
            pipeline.push(&["HMGET", keys.state(), "epoch", "trimmedTo"]);
            pipeline.push(&["GET", &keys.at(channel.channel())]);
            let replies = self.link(&keys.stream).call(pipeline).await?;
            feeds.push(feed(local.key.stream().clone(), &replies)?);
        }
        Ok(feeds)
    }
}

fn feed(stream: StreamName, replies: &[Raw]) -> Result<Feed> {
    let [stream_info, state, at] = replies else { return Err(malformed("three replies")) };
    if stream_info.error().is_some_and(|text| text.starts_with(b"ERR no such key")) {
        return Ok(Feed { stream, epoch: None, tip: None, last_id: None, trimmed_to: None });
    }
    let state = state.reply()?;
    let [epoch, trimmed_to] = state.array() else { return Err(malformed("two fields")) };
    Ok(Feed {
        stream,
        epoch: epoch.utf8().and_then(|text| Epoch::new(text.to_owned()).ok()),
        tip: at.reply()?.id(),
        last_id: last_id(&stream_info.reply()?),
        trimmed_to: trimmed_to.id(),
    })
}

/// The newest id that was ever given on the stream of this `XINFO STREAM`.
pub(crate) fn last_id(info: &Reply) -> Option<MessageId> {
    info.field("last-generated-id").and_then(Reply::id).filter(|id| *id != MessageId::MIN)
}
