use std::sync::Arc;
use std::time::{Duration, Instant};

use apix::{
    ErrorKind, Event, GroupName, GroupSettings, HybridOptions, Json, LiveUpdate, NewMessage,
    Permissions, RangeQuery, ReadRequest, Receipt, Replay, SeekTo, Settlement, StreamSettings,
    TenantContext, TenantMessagingService,
};
use futures_util::TryStreamExt;
use proptest::prelude::*;

use crate::{acme, event, service};

async fn replay(
    service: &TenantMessagingService,
    ctx: &TenantContext,
    stream: &str,
) -> apix::Result<Vec<apix::StoredEvent>> {
    service.replay_events(ctx, stream, Replay::default())?.try_collect().await
}

/// Every operation with a name, as the error kind it ends in.
async fn try_everything(
    service: &TenantMessagingService,
    ctx: &TenantContext,
    stream: &str,
    channel: &str,
) -> Vec<(&'static str, Option<ErrorKind>)> {
    let group = GroupName::default;
    let receipt = || Receipt::of_anyone("1-0".parse().unwrap());
    let give_up = Settlement::DeadLetter { reason: "x".into() };
    let choice = apix::DeadLetterChoice::All;
    let hybrid = HybridOptions {
        stream_name: stream.to_owned(),
        realtime_channel: channel.to_owned(),
        ..HybridOptions::default()
    };
    let kind = |error: apix::Error| Some(error.kind());
    let message = || NewMessage::new("t", Json::parse("1").unwrap());
    vec![
        ("add", service.add_event_to_stream(ctx, stream, event(1)).await.err().and_then(kind)),
        (
            "add batch",
            service.add_events_to_stream(ctx, stream, vec![event(1)]).await.err().and_then(kind),
        ),
        (
            "read group",
            service.process_events_from_stream(ctx, stream, "c", 1).await.err().and_then(kind),
        ),
        (
            "acknowledge",
            service
                .acknowledge_events(ctx, stream, group(), &[receipt()])
                .await
                .err()
                .and_then(kind),
        ),
        (
            "reject",
            service
                .reject_event(ctx, stream, group(), receipt(), give_up)
                .await
                .err()
                .and_then(kind),
        ),
        (
            "extend",
            service
                .extend_lease(ctx, stream, group(), vec![receipt()], Duration::from_secs(1))
                .await
                .err()
                .and_then(kind),
        ),
        (
            "read",
            service.read_events(ctx, stream, &RangeQuery::default()).await.err().and_then(kind),
        ),
        ("replay", replay(service, ctx, stream).await.err().and_then(kind)),
        (
            "seek",
            service.seek_group(ctx, stream, group(), SeekTo::Start).await.err().and_then(kind),
        ),
        (
            "configure group",
            service
                .configure_group(ctx, stream, group(), GroupSettings::default())
                .await
                .err()
                .and_then(kind),
        ),
        ("group stats", service.group_stats(ctx, stream, group()).await.err().and_then(kind)),
        (
            "dead letters",
            service.dead_letters(ctx, stream, group(), None, 1).await.err().and_then(kind),
        ),
        (
            "retry dead letters",
            service.retry_dead_letters(ctx, stream, group(), &choice).await.err().and_then(kind),
        ),
        (
            "discard dead letters",
            service.discard_dead_letters(ctx, stream, group(), &choice).await.err().and_then(kind),
        ),
        ("delete group", service.delete_group(ctx, stream, group()).await.err().and_then(kind)),
        (
            "configure stream",
            service
                .configure_stream(ctx, stream, StreamSettings::default())
                .await
                .err()
                .and_then(kind),
        ),
        ("stream stats", service.stream_stats(ctx, stream).await.err().and_then(kind)),
        ("hybrid", service.publish_hybrid_event(ctx, event(1), &hybrid).await.err().and_then(kind)),
        (
            "publish",
            service.publish_realtime_message(ctx, channel, message()).await.err().and_then(kind),
        ),
        (
            "subscribe",
            service.subscribe_to_realtime_messages(ctx, channel).await.err().and_then(kind),
        ),
        ("delete stream", service.delete_stream(ctx, stream).await.err().and_then(kind)),
    ]
}

#[tokio::test]
async fn forged_names_are_refused_by_every_operation() {
    let service = service().await;
    let long = "x".repeat(129);
    for name in ["", "*", "{x}", "a@b", "a/b", "a\nb", "ü", &long] {
        for (operation, kind) in try_everything(&service, &acme(), name, name).await {
            assert_eq!(kind, Some(ErrorKind::InvalidName), "{operation} of {name:?}");
        }
    }
    for name in ["a:b", "", "*", &long] {
        let request = ReadRequest { wait: Duration::ZERO, ..ReadRequest::default() };
        let refused = service.read_group(&acme(), "s", name, request).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidName, "consumer {name:?}");
        assert_eq!(GroupName::new(name).unwrap_err().kind(), ErrorKind::InvalidName);
        assert_eq!(TenantContext::trusted(name).unwrap_err().kind(), ErrorKind::InvalidName);
    }
}

#[tokio::test]
async fn without_permissions_nothing_is_allowed() {
    let service = service().await;
    let none = Arc::new(Permissions::default());
    let ctx = TenantContext::authenticated("acme".parse().unwrap(), None, none).unwrap();
    for (operation, kind) in try_everything(&service, &ctx, "s", "c").await {
        assert_eq!(kind, Some(ErrorKind::PermissionDenied), "{operation}");
    }
    assert_eq!(service.list_streams(&acme()).await.unwrap(), []);
    for (operation, kind) in try_everything(&service, &acme(), "s", "c").await {
        // The delivery that these name does not exist; everything else is allowed.
        let expected = (operation == "reject").then_some(ErrorKind::LeaseLost);
        assert_eq!(kind, expected, "{operation}");
    }
}

#[tokio::test]
async fn what_apix_writes_nobody_else_writes() {
    let service = service().await;
    for (stream, channel) in [("audit", "c"), ("connections", "connection-status")] {
        let hybrid = HybridOptions {
            stream_name: stream.to_owned(),
            realtime_channel: channel.to_owned(),
            ..HybridOptions::default()
        };
        let refused = [
            service.add_event_to_stream(&acme(), stream, event(1)).await.err(),
            service.add_events_to_stream(&acme(), stream, vec![event(1)]).await.err(),
            service.publish_hybrid_event(&acme(), event(1), &hybrid).await.err(),
            service.configure_stream(&acme(), stream, StreamSettings::default()).await.err(),
            service.delete_stream(&acme(), stream).await.err(),
        ];
        for error in refused {
            assert_eq!(error.unwrap().kind(), ErrorKind::ReservedName);
        }
    }
    let message = NewMessage::new("t", Json::parse("1").unwrap());
    let refused = service.publish_realtime_message(&acme(), "connection-status", message).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReservedName);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Tenants whose names are prefixes and parts of each other, with streams of every kind of
    /// allowed name: each sees its own events alone.
    #[test]
    fn no_name_reaches_into_another_tenant(
        tenants in prop::collection::hash_set("[a-c.-]{1,3}", 2..5),
        stream in "[ab:.]{1,4}(:stream:[ab]{1,2})?",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let service = service().await;
            let mut streams = vec![stream.clone()];
            streams.extend(tenants.iter().map(|tenant| format!("{tenant}:stream:{stream}")));
            for (index, tenant) in tenants.iter().enumerate() {
                let ctx = TenantContext::trusted(tenant.as_str()).unwrap();
                for name in &streams {
                    let event = Event::new("e", Json::encode(&(index, name)).unwrap());
                    service.add_event_to_stream(&ctx, name, event).await.unwrap();
                }
            }
            for (index, tenant) in tenants.iter().enumerate() {
                let ctx = TenantContext::trusted(tenant.as_str()).unwrap();
                assert_eq!(service.list_streams(&ctx).await.unwrap().len(), streams.len());
                for name in &streams {
                    let page = service.read_events(&ctx, name, &RangeQuery::default()).await.unwrap();
                    assert_eq!(page.events.len(), 1);
                    let own = Json::encode(&(index, name)).unwrap();
                    assert_eq!(page.events[0].payload.as_str(), own.as_str());
                }
            }
        });
    }
}

#[tokio::test]
async fn a_replay_is_filtered_bounded_and_paced() {
    let service = service().await;
    let ctx = acme();
    for n in 0..60 {
        let mut event = event(n);
        event.event_type = if n % 3 == 0 { "third" } else { "other" }.into();
        service.add_event_to_stream(&ctx, "s", event).await.unwrap();
    }
    let replay = |max_events, events_per_second| {
        let query =
            RangeQuery { event_type: Some("third".into()), limit: 7, ..RangeQuery::default() };
        let request = Replay { query, max_events, events_per_second };
        service.replay_events(&ctx, "s", request).unwrap().try_collect::<Vec<_>>()
    };
    let all = replay(None, None).await.unwrap();
    let payloads: Vec<&str> = all.iter().map(|event| event.payload.as_str()).collect();
    assert_eq!(payloads, (0..60).step_by(3).map(|n: u64| n.to_string()).collect::<Vec<_>>());
    let begun = Instant::now();
    assert_eq!(replay(Some(11), Some(100)).await.unwrap().len(), 11);
    assert!(begun.elapsed() >= Duration::from_millis(100), "faster than its pace");
}

#[tokio::test]
async fn a_hybrid_event_goes_where_its_options_say() {
    let service = service().await;
    let ctx = acme();
    let mut live = service.subscribe_to_realtime_messages(&ctx, "notifications").await.unwrap();
    let publish = |persist, notify| {
        let options = HybridOptions {
            persist_to_stream: persist,
            notify_realtime: notify,
            ..HybridOptions::default()
        };
        let (service, ctx) = (service.clone(), ctx.clone());
        async move { service.publish_hybrid_event(&ctx, event(1), &options).await }
    };
    let both = publish(true, true).await.unwrap();
    assert!(both.stream_message_id.is_some() && both.subscriber_count == Some(1));
    let stored = publish(true, false).await.unwrap();
    assert!(stored.stream_message_id.is_some() && stored.subscriber_count.is_none());
    let shown = publish(false, true).await.unwrap();
    assert!(shown.stream_message_id.is_none() && shown.subscriber_count == Some(1));
    assert_eq!(publish(false, false).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    for expected in [both.stream_message_id, None] {
        match live.recv().await.unwrap().unwrap() {
            LiveUpdate::Message(message) => {
                assert_eq!(message.origin().map(|origin| origin.message_id), expected);
            }
            missed @ LiveUpdate::Missed { .. } => panic!("{missed:?}"),
        }
    }
    let stats = service.stream_stats(&ctx, "events").await.unwrap();
    assert_eq!(stats.length, 2);
}
