//! Being stopped: what was accepted is finished, and nothing that was answered is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::finish;
use crate::server::{Server, TOKEN, folder, http};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_finishes_what_was_accepted() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (url, stop) = (server.url.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let (http, mut ids) = (http(), Vec::new());
            let event = json!({"eventType": "t", "payload": 1});
            while !stop.load(Ordering::Acquire) {
                let sent = http.post(format!("{url}/v1/streams/orders/events")).json(&event).send();
                let Ok(answer) = sent.await else { continue };
                assert!(matches!(answer.status().as_u16(), 201 | 503), "{}", answer.status());
                if answer.status() == 201 {
                    let answer: Value = answer.json().await.expect("an accepted call was cut off");
                    ids.push(answer["messageId"].as_str().unwrap().to_owned());
                }
            }
            ids
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut half, rest) = half_a_request(&server.url);
    server.signal("TERM");
    await_refused(&server.url);
    half.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    stop.store(true, Ordering::Release);
    let ids: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(ids.len() > 20, "there was no load");
    let again = Server::start(folder.path(), &[]);
    let kept = finish(&mut again.apix(&["replay", "orders"])).ok();
    for id in ids {
        assert!(kept.contains(&format!("\"messageId\":\"{id}\"")), "{id} is lost");
    }
}

/// A call of which the server has read the beginning only, and what is still to be sent.
fn half_a_request(url: &str) -> (TcpStream, &'static str) {
    let (head, rest) = ("{\"eventType\":\"half\",", "\"payload\":1}");
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "POST /v1/streams/orders/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n{head}",
        head.len() + rest.len()
    )
    .unwrap();
    // The interim answer says that the call has begun.
    let mut begun = [0; 25];
    stream.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"HTTP/1.1 100 Continue\r\n\r\n");
    (stream, rest)
}

fn await_refused(url: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(url.strip_prefix("http://").unwrap()).is_ok() {
        assert!(Instant::now() < deadline, "it goes on accepting");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupt_stops_it_too_and_waiting_clients_are_told() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &["--broker", "memory:"]);
    let mut waiting = server.apix(&["tail", "news"]);
    waiting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut waiting = waiting.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "an idle client holds up the stop");
    crate::server::signal(waiting.id(), "INT");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &["--drain-timeout", "60s"]);
    let (_half, _) = half_a_request(&server.url);
    server.signal("TERM");
    await_refused(&server.url);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(143));
}

#[test]
fn what_takes_too_long_is_cut() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &["--drain-timeout", "300ms"]);
    let (_half, _) = half_a_request(&server.url);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}
