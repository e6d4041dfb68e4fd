//! Many sessions on one channel.

use futures_util::future::join_all;
use serde_json::json;

use crate::bed::{Server, admin, config, memory, tenant, within};
use crate::live::{Client, hybrid, publish};

#[tokio::test]
async fn a_hundred_sessions_are_one_subscription_of_the_broker() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(&server, &token).await;
        client.subscribe(json!(["notifications"])).await;
        clients.push(client);
    }
    let answer = publish(&server, &token, "notifications", json!("all")).await;
    assert_eq!(answer["subscriberCount"], 1);
    hybrid(&server, &token, json!("stored")).await;
    for client in &mut clients {
        assert_eq!(client.next().await["data"]["data"], "all");
        assert_eq!(client.next().await["data"]["data"], "stored");
    }
}

#[tokio::test]
async fn sessions_return_without_gap_or_repeat_while_two_publishers_race_on_two_gateways() {
    let broker = memory().await;
    let here = Server::with(broker.clone(), config()).await;
    let there = Server::with(broker, config()).await;
    returns_without_gap(&here, &there).await;
}

pub(crate) async fn returns_without_gap(here: &Server, there: &Server) {
    const EACH: usize = 300;
    let token = admin(&tenant());
    let first = hybrid(here, &token, json!("first")).await;
    let publishing = async |server: &Server, who: &str| {
        for n in 0..EACH {
            hybrid(server, &token, json!(format!("{who}{n}"))).await;
        }
    };
    let following = async |server: &Server| {
        let (mut since, mut seen) = (first.clone(), Vec::new());
        while seen.len() < 2 * EACH {
            let mut client = Client::connect(server, &token).await;
            client.subscribe(json!([{ "channel": "notifications", "since": since }])).await;
            // Comes, stays for a while, goes, and comes again.
            for _ in 0..97 {
                if seen.len() == 2 * EACH {
                    break;
                }
                let update = client.next().await;
                assert_eq!(update["event"], "realtime_update", "{update}");
                since = update["data"]["messageId"].as_str().unwrap().to_owned();
                seen.push(update["data"]["data"].as_str().unwrap().to_owned());
            }
        }
        seen
    };
    let following =
        join_all([following(here), following(there), following(here), following(there)]);
    let (_, _, seen) =
        within(async { tokio::join!(publishing(here, "a"), publishing(there, "b"), following) })
            .await;
    for one in &seen {
        assert_eq!(one, &seen[0]);
        for who in ["a", "b"] {
            let of: Vec<_> = one.iter().filter(|text| text.starts_with(who)).cloned().collect();
            let sent: Vec<_> = (0..EACH).map(|n| format!("{who}{n}")).collect();
            assert_eq!(of, sent);
        }
    }
}

#[tokio::test]
async fn what_gave_way_in_a_slow_sessions_queue_is_read_from_the_stream() {
    let mut config = config();
    config.live.queue_bytes = 20_000;
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let stream = crate::bed::with_small_buffer(server.addr).await;
    let mut slow = Client::over(stream, &server, &token).await;
    slow.subscribe(json!(["notifications"])).await;
    for n in 0..200 {
        hybrid(&server, &token, json!({ "n": n, "fill": "x".repeat(50_000) })).await;
    }
    for n in 0..200 {
        let update = slow.next().await;
        assert_eq!(update["event"], "realtime_update", "{n}");
        assert_eq!(update["data"]["data"]["n"], n);
    }
}
