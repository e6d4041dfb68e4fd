//! Every operation of one tenant leaves another's streams, groups and channels as they were, and
//! sees nothing of them.

use std::time::Duration;

use super::observed::Operation;
use super::world::{LONG_LEASE_MS, World, event, next_ids};
use super::{Case, test};
use crate::dead_letter::DeadLetterChoice;
use crate::error::ErrorKind;
use crate::event::Receipt;
use crate::group::{GroupSettings, SeekTo, Settlement};
use crate::live::LiveSubscription;
use crate::retention::StreamSettings;
use crate::stream::RangeQuery;

pub(super) fn case(operation: Operation) -> Case {
    test(move |world| async move {
        let owner = Owner::settle_in(world).await;
        let stranger = owner.world.other_tenant();
        meddle(&stranger, &owner, operation).await;
        owner.check().await;
    })
}

/// A tenant with something of everything.
struct Owner {
    world: World,
    before: String,
    live: LiveSubscription,
    pending: Receipt,
}

impl Owner {
    async fn settle_in(world: World) -> Self {
        world.set_lease(LONG_LEASE_MS).await;
        let live = world.listen(None).await;
        world.show(1).await;
        world.add_many(3).await;
        let came = world.read_all("c", 3).await;
        let mut came = came.into_values();
        let given_up = came.next().unwrap();
        let why = Settlement::DeadLetter { reason: "no use".into() };
        if world.strict {
            world.settle(&given_up, why).await.unwrap();
        }
        let pending = Receipt::of_anyone(came.next().unwrap().event.message_id);
        let before = view(&world).await;
        Self { world, before, live, pending }
    }

    async fn check(mut self) {
        if self.world.strict {
            assert_eq!(view(&self.world).await, self.before, "the owner's view has changed");
        }
        let shown = self.world.show(2).await.message_id;
        let came = next_ids(&mut self.live, 2).await;
        assert_eq!(came[1], shown, "only the owner's events are on the owner's channel");
        assert!(self.world.ids().await.contains(&came[0]));
    }
}

/// Everything that can be seen of the tenant, without what moves by itself.
async fn view(world: &World) -> String {
    let mut stats = world.broker.stream_stats(&world.stream()).await.unwrap();
    for group in &mut stats.groups {
        group.idle_ms = None;
        group.oldest_unacknowledged_ms = None;
        group.consumers.iter_mut().for_each(|consumer| consumer.idle_ms = 0);
    }
    stats.bytes = 0;
    let dead = world.broker.dead_letters(&world.group(), None, 100).await.unwrap();
    let streams = world.broker.list_streams(world.ctx.organization_id()).await.unwrap();
    let feeds = world.broker.channel_feeds(&world.channel()).await.unwrap();
    format!("{stats:?} {dead:?} {streams:?} {feeds:?} {:?}", world.ids().await)
}

async fn meddle(stranger: &World, owner: &Owner, operation: Operation) {
    let broker = &stranger.broker;
    let (stream, group, channel) = (stranger.stream(), stranger.group(), stranger.channel());
    match operation {
        Operation::Append => {
            let own = stranger.add(9).await;
            assert_eq!(stranger.ids().await, [own]);
        }
        Operation::AppendBatch => {
            let own = stranger.add_many(5).await;
            assert_eq!(stranger.ids().await, own);
        }
        Operation::AppendAfter => {
            broker.append_after(&stream, None, event(9)).await.unwrap();
        }
        Operation::PublishHybrid => {
            let shown = stranger.show(9).await;
            assert_eq!(shown.subscriber_count, Some(0));
            let feeds = broker.channel_feeds(&channel).await.unwrap();
            assert_eq!(feeds[0].tip, Some(shown.message_id));
        }
        Operation::ReadRange => {
            let read = broker.read_range(&stream, &RangeQuery::default()).await;
            assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound);
        }
        Operation::ReadGroup => stranger.read_nothing("c").await,
        Operation::Acknowledge => {
            let done = broker.acknowledge(&group, std::slice::from_ref(&owner.pending)).await;
            assert_eq!(done.unwrap().count, 0);
        }
        Operation::Retry | Operation::GiveUp | Operation::Extend => {
            let what = match operation {
                Operation::Retry => Settlement::Retry { after: None, reason: "x".into() },
                Operation::GiveUp => Settlement::DeadLetter { reason: "x".into() },
                _ => Settlement::Extend { lease: Duration::from_secs(1) },
            };
            let settled = broker.settle(&group, vec![(owner.pending.clone(), what)]).await.unwrap();
            let refused = settled[0].as_ref().unwrap_err().kind();
            assert_eq!(refused, ErrorKind::LeaseLost, "as for an event that does not exist");
        }
        Operation::SeekGroup => {
            let refused = broker.seek_group(&group, SeekTo::End).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::ConfigureGroup => {
            stranger.set_group(GroupSettings { paused: true, ..GroupSettings::default() }).await;
        }
        Operation::DeleteGroup => {
            let refused = broker.delete_group(&group).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::GroupStats => {
            let refused = broker.group_stats(&group).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::DeadLetters => {
            let refused = broker.dead_letters(&group, None, 10).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::RetryDeadLetters => {
            let refused = broker.retry_dead_letters(&group, &DeadLetterChoice::All).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        }
        Operation::DiscardDeadLetters => {
            let refused = broker.discard_dead_letters(&group, &DeadLetterChoice::All).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        }
        Operation::ConfigureStream => {
            let mut settings = StreamSettings::default();
            settings.retention.max_len = Some(1);
            broker.configure_stream(&stream, settings).await.unwrap();
            stranger.trim().await;
        }
        Operation::DeleteStream => {
            let refused = broker.delete_stream(&stream).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::ListStreams => {
            let listed = broker.list_streams(stranger.ctx.organization_id()).await.unwrap();
            assert_eq!(listed, []);
        }
        Operation::StreamStats => {
            let refused = broker.stream_stats(&stream).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
        Operation::Trim => assert_eq!(broker.trim(&stream).await.unwrap_or(0), 0),
        Operation::Publish => assert_eq!(stranger.publish(9).await, 0),
        Operation::Subscribe => {
            let mut live = stranger.listen(None).await;
            owner.world.publish(3).await;
            stranger.show(4).await;
            // The stranger's own event is the first that the stranger sees.
            let first = stranger.next_message(&mut live).await;
            assert_eq!(first.organization_id(), stranger.ctx.organization_id());
            assert!(first.origin().is_some());
        }
        Operation::ChannelFeeds => {
            assert_eq!(broker.channel_feeds(&channel).await.unwrap(), []);
        }
    }
}
