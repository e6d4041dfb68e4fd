//! Live clients by WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async, connect_async};

use crate::bed::{
    Server, admin, config, memory, sign, tenant, token, unix_now, with_small_buffer, within,
};

use crate::logs::Recorder;

pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

impl Client {
    /// Connects with the token in the header, and takes the first frame.
    pub(crate) async fn connect(server: &Server, token: &str) -> Self {
        Self::over(TcpStream::connect(server.addr).await.unwrap(), server, token).await
    }

    pub(crate) async fn over(stream: TcpStream, server: &Server, token: &str) -> Self {
        let mut request = format!("ws://{}/v1/ws", server.addr).into_client_request().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        let (socket, _) = within(client_async(request, stream)).await.unwrap();
        let mut client = Self { socket };
        assert_eq!(client.next().await["event"], "connected");
        client
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub(crate) async fn next_text(&mut self) -> String {
        loop {
            match within(self.socket.next()).await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).unwrap()
    }

    pub(crate) async fn ask(&mut self, event: &str, data: Value) -> Value {
        self.send(json!({ "event": event, "data": data, "id": 1 })).await;
        let answer = self.next().await;
        assert!(answer["event"] == "ack" || answer["event"] == "exception", "{answer}");
        answer
    }

    pub(crate) async fn subscribe(&mut self, channels: Value) -> Value {
        let answer = self.ask("subscribe_updates", json!({ "channels": channels })).await;
        assert_eq!(answer["event"], "ack", "{answer}");
        answer["data"].clone()
    }

    /// The code that the server closes with.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match within(self.socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Text(_) | Message::Ping(_))) => {}
                other => panic!("not closed with a code: {other:?}"),
            }
        }
    }
}

pub(crate) async fn publish(server: &Server, token: &str, channel: &str, data: Value) -> Value {
    let path = format!("/v1/channels/{channel}/messages");
    server.post(&path, token, json!({ "type": "t", "data": data })).await.json()
}

pub(crate) async fn hybrid(server: &Server, token: &str, payload: Value) -> String {
    let body = json!({ "eventType": "h", "payload": payload });
    let answer = server.post("/v1/hybrid-events", token, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["streamMessageId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_subscriber_gets_messages_and_hybrid_events() {
    let server = Server::start().await;
    let tenant = tenant();
    let token = admin(&tenant);
    let mut client = Client::connect(&server, &token).await;
    let answer = client.subscribe(json!(["notifications", "a/b", { "channel": "room:1" }])).await;
    assert_eq!(answer["subscribed"][0]["channel"], "notifications");
    assert_eq!(answer["subscribed"][1]["channel"], "room:1");
    assert_eq!(answer["refused"][0]["channel"], "a/b");
    assert_eq!(answer["refused"][0]["code"], "invalid_name");

    let path = "/v1/channels/room:1/messages";
    let body = r#"{"type":"t","data": { "n":9007199254740993, "n":1 } }"#;
    let sent = server.post_text(path, &token, "application/json", body).await;
    assert_eq!(sent.json(), json!({ "subscriberCount": 1 }));
    let text = client.next_text().await;
    let right = r#"{"event":"realtime_update","data":{"channel":"room:1","type":"t","data":{ "n":9007199254740993, "n":1 },"#;
    assert!(text.starts_with(right), "{text}");

    let id = hybrid(&server, &token, json!({ "paid": true })).await;
    let update = client.next().await;
    let data = &update["data"];
    assert_eq!((&update["event"], &data["messageId"]), (&json!("realtime_update"), &json!(id)));
    assert_eq!((&data["type"], &data["data"]), (&json!("h"), &json!({ "paid": true })));
    assert_eq!((&data["stream"], &data["organizationId"]), (&json!("events"), &json!(tenant)));
    assert!(data["epoch"].is_string());

    let answer = client.ask("unsubscribe_updates", json!({ "channels": ["room:1"] })).await;
    assert_eq!(answer["data"], json!({ "unsubscribed": ["room:1"] }));
    let gone = crate::bed::eventually(|| async {
        let count = publish(&server, &token, "room:1", json!(1)).await["subscriberCount"].clone();
        (count == 0).then_some(count)
    });
    gone.await;
}

#[tokio::test]
async fn requests_are_answered_with_their_ids() {
    let server = Server::start().await;
    let mut client = Client::connect(&server, &admin(&tenant())).await;
    client.subscribe(json!(["news"])).await;
    client.send(json!({ "event": "publish", "id": "p-1", "data": { "channel": "news", "type": "t", "data": [1] } })).await;
    let (first, second) = (client.next().await, client.next().await);
    assert_eq!(first, json!({ "event": "ack", "id": "p-1", "data": { "subscriberCount": 1 } }));
    assert_eq!(
        (&second["event"], &second["data"]["data"]),
        (&json!("realtime_update"), &json!([1]))
    );
    for (frame, code, message) in [
        (json!({ "event": "shout", "id": 7 }), "invalid_request", "subscribe_updates"),
        (
            json!({ "event": "publish", "id": 7, "data": { "type": "t", "data": 1 } }),
            "invalid_request",
            "channel",
        ),
        (
            json!({ "event": "publish", "id": 7, "data": { "channel": "connection-status", "type": "t", "data": 1 } }),
            "reserved_name",
            "written by APIX only",
        ),
        (
            json!({ "event": "subscribe_updates", "id": 7, "data": {} }),
            "invalid_request",
            "channels",
        ),
    ] {
        client.send(frame.clone()).await;
        let answer = client.next().await;
        assert_eq!(answer["event"], "exception", "{answer}");
        let data = &answer["data"];
        assert_eq!(
            (&data["status"], &data["code"], &data["id"]),
            (&json!("error"), &json!(code), &json!(7))
        );
        assert!(data["message"].as_str().unwrap().contains(message), "{answer}");
    }
    client.socket.send(Message::text("{")).await.unwrap();
    assert_eq!(client.next().await["data"]["code"], "invalid_request");
    client.socket.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(client.next().await["data"]["code"], "invalid_request");
}

#[tokio::test]
async fn permissions_and_tenants_hold_on_live_connections() {
    let server = Server::start().await;
    let tenant = tenant();
    let own = token(&tenant, &["channels:subscribe:user:{userId}", "channels:publish:open"]);
    let mut client = Client::connect(&server, &own).await;
    let answer = client
        .subscribe(json!([
            "user:anna",
            "user:bert",
            { "channel": "user:anna", "presence": true },
            { "channel": "user:anna", "organizationId": "other" },
        ]))
        .await;
    assert_eq!(answer["subscribed"].as_array().unwrap().len(), 1);
    let refused = answer["refused"].as_array().unwrap();
    let codes: Vec<_> = refused.iter().map(|refused| refused["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["permission_denied", "permission_denied", "tenant_mismatch"]);
    let publish_on = |channel: &str| json!({ "channel": channel, "type": "t", "data": 1 });
    assert_eq!(client.ask("publish", publish_on("open")).await["event"], "ack");
    let answer = client.ask("publish", publish_on("closed")).await;
    assert_eq!(answer["data"]["code"], "permission_denied");
    // The same name in another tenant is another channel.
    assert_eq!(
        publish(&server, &admin("t-stranger"), "user:anna", json!(1)).await["subscriberCount"],
        0
    );
}

#[tokio::test]
async fn the_token_may_come_in_three_ways_and_is_asked_for_before_the_upgrade() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let url = format!("ws://{}/v1/ws", server.addr);
    let (mut socket, _) = connect_async(format!("{url}?token={token}")).await.unwrap();
    assert!(within(socket.next()).await.unwrap().unwrap().to_text().unwrap().contains("connected"));
    let mut request = url.as_str().into_client_request().unwrap();
    let offered = format!("apix.v1, bearer.{token}").parse().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", offered);
    let (_socket, response) = connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "apix.v1");
    for wrong in ["", "?token=wrong"] {
        match connect_async(format!("{url}{wrong}")).await {
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 401);
                let body = String::from_utf8(response.body().clone().unwrap()).unwrap();
                assert!(body.contains("\"unauthorized\""), "{body}");
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    let answer = server.get("/v1/ws", &token).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"));
}

#[tokio::test]
async fn a_returning_client_gets_what_it_missed_before_what_is_new() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let mut client = Client::connect(&server, &token).await;
    client.subscribe(json!(["notifications"])).await;
    hybrid(&server, &token, json!(0)).await;
    let seen = client.next().await["data"]["messageId"].clone();
    drop(client);
    for n in 1..=300 {
        hybrid(&server, &token, json!(n)).await;
    }
    let mut client = Client::connect(&server, &token).await;
    let wish = json!([{ "channel": "notifications", "since": seen }]);
    let answer = client.subscribe(wish).await;
    assert_eq!(answer["subscribed"][0]["position"]["events"]["id"], seen);
    hybrid(&server, &token, json!(301)).await;
    for n in 1..=301 {
        assert_eq!(client.next().await["data"]["data"], n);
    }
    // A position from another life of the stream cannot be gone back to.
    let lost = json!([{ "channel": "notifications", "since": { "events": { "id": seen, "epoch": "other" } } }]);
    client.subscribe(lost).await;
    let missed = client.next().await;
    let right = json!({ "channel": "notifications", "count": null, "recoverable": false });
    assert_eq!((&missed["event"], &missed["data"]), (&json!("missed"), &right));
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let server = Server::start().await;
    let claims =
        json!({ "organizationId": tenant(), "exp": unix_now() + 2, "permissions": ["admin"] });
    let mut client = Client::connect(&server, &sign(&claims)).await;
    client.subscribe(json!(["news"])).await;
    assert_eq!(client.closed().await, 4002);
    assert!(unix_now() >= claims["exp"].as_u64().unwrap());
}

#[tokio::test]
async fn a_silent_client_is_let_go_and_a_living_one_is_kept() {
    let mut config = config();
    config.live.ping_interval = Duration::from_millis(100);
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let mut living = Client::connect(&server, &token).await;
    let mut silent = Client::connect(&server, &token).await;
    for client in [&mut living, &mut silent] {
        client.subscribe(json!(["news"])).await;
    }
    // Only a client that is polled answers pings.
    let listening =
        tokio::spawn(async move { while living.next().await["data"]["data"] != "still there" {} });
    crate::bed::eventually(|| async {
        let reached = publish(&server, &token, "news", json!(0)).await["subscriberCount"].clone();
        (reached == 1).then_some(())
    })
    .await;
    publish(&server, &token, "news", json!("still there")).await;
    within(listening).await.unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_large_closes_the_connection() {
    let mut config = config();
    config.live.max_frame_bytes = 1_000;
    let server = Server::with(memory().await, config).await;
    let mut client = Client::connect(&server, &admin(&tenant())).await;
    client.socket.send(Message::text("x".repeat(1_001))).await.unwrap();
    assert_eq!(client.closed().await, 1009);
}

#[tokio::test]
async fn a_client_has_a_limited_number_of_channels() {
    let mut config = config();
    config.live.max_channels = 2;
    let server = Server::with(memory().await, config).await;
    let mut client = Client::connect(&server, &admin(&tenant())).await;
    let answer = client.subscribe(json!(["a", "b"])).await;
    assert_eq!(answer["subscribed"].as_array().unwrap().len(), 2);
    let answer = client.subscribe(json!(["c", "a"])).await;
    assert_eq!(answer["subscribed"][0]["channel"], "a");
    assert_eq!(answer["refused"][0]["code"], "too_large");
    let answer = client.ask("subscribe_updates", json!({ "channels": ["a", "b", "c"] })).await;
    assert_eq!(answer["data"]["code"], "too_large");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_slows_nobody() {
    let mut config = config();
    config.live.slow_timeout = Duration::from_millis(500);
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let stream = with_small_buffer(server.addr).await;
    let mut slow = Client::over(stream, &server, &token).await;
    let mut quick = Client::connect(&server, &token).await;
    slow.subscribe(json!(["news"])).await;
    quick.subscribe(json!(["news"])).await;
    let publishing = async {
        for n in 0..80 {
            publish(&server, &token, "news", json!({ "n": n, "fill": "x".repeat(100_000) })).await;
        }
    };
    let receiving = async {
        let mut next = 0;
        while next < 80 {
            let update = quick.next().await;
            assert_eq!(update["event"], "realtime_update");
            assert_eq!(update["data"]["data"]["n"], next);
            next += 1;
        }
    };
    within(async { tokio::join!(publishing, receiving) }).await;
    // Reading nothing, it finds out by writing.
    within(async {
        while slow.socket.send(Message::Ping(bytes::Bytes::new())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    crate::bed::eventually(|| async {
        let reached = publish(&server, &token, "news", json!(1)).await["subscriberCount"].clone();
        (reached == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_was_too_slow_finds_out_why() {
    let recorder = Recorder::default();
    let _recording = tracing::subscriber::set_default(recorder.clone());
    let mut config = config();
    config.live.slow_timeout = Duration::from_millis(200);
    let server = Server::with(memory().await, config).await;
    let token = admin(&tenant());
    let stream = with_small_buffer(server.addr).await;
    let mut slow = Client::over(stream, &server, &token).await;
    slow.subscribe(json!(["news"])).await;
    crate::bed::eventually(|| async {
        publish(&server, &token, "news", json!("x".repeat(200_000))).await;
        recorder.lines().iter().any(|line| line.contains("code=4008")).then_some(())
    })
    .await;
    // The goodbye waits behind what was sent before, for a moment.
    assert_eq!(slow.closed().await, 4008);
}

#[tokio::test]
async fn a_slow_client_is_told_exactly_how_many_it_missed() {
    let server = Server::start().await;
    let token = admin(&tenant());
    let stream = with_small_buffer(server.addr).await;
    let mut client = Client::over(stream, &server, &token).await;
    client.subscribe(json!(["news"])).await;
    const SENT: u64 = 400;
    for n in 0..SENT {
        publish(&server, &token, "news", json!({ "n": n, "fill": "x".repeat(50_000) })).await;
    }
    let (mut received, mut missed) = (0, 0);
    while received + missed < SENT {
        let frame = client.next().await;
        match frame["event"].as_str().unwrap() {
            "realtime_update" => received += 1,
            "missed" => missed += frame["data"]["count"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert_eq!(received + missed, SENT);
    assert!(missed > 0, "the sockets took everything");
}
