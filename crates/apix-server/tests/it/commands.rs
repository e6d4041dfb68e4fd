//! Each command against a real server.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::{finish, finish_with_input};
use crate::server::{Server, folder, signal};

fn server() -> (tempfile::TempDir, Server) {
    let folder = folder();
    let server = Server::start(folder.path(), &["--broker", "memory:"]);
    (folder, server)
}

impl Server {
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        finish(&mut self.apix(arguments)).ok()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }
}

/// Asks until the answer is right.
#[track_caller]
fn eventually<T: std::fmt::Debug>(mut ask: impl FnMut() -> T, right: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let answer = ask();
        if right(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn payloads_come_back_byte_for_byte() {
    let (folder, server) = server();
    let payload =
        "{\"n\":9007199254740993,\"a\":1,\"a\":2, \"big\":1e400,\"text\":\"\\u00fc ü 𝄞\"}";
    let file = folder.path().join("payload.json");
    std::fs::write(&file, payload).unwrap();
    let at_file = format!("@{}", file.display());
    server.ok(&["add", "exact", payload, "--type", "t"]);
    server.ok(&["add", "exact", &at_file, "--type", "t"]);
    let mut from_stdin = server.apix(&["add", "exact", "-", "--type", "t"]);
    finish_with_input(&mut from_stdin, payload.as_bytes()).ok();
    let mut as_line = server.apix(&["add", "exact", "--ndjson", "--type", "t"]);
    finish_with_input(&mut as_line, payload.as_bytes()).ok();
    server.ok(&["hybrid", payload, "--type", "t", "--stream", "exact", "--channel", "c"]);
    let mut lines =
        server.apix(&["hybrid", "--ndjson", "--type", "t", "--stream", "exact", "--channel", "c"]);
    finish_with_input(&mut lines, payload.as_bytes()).ok();
    let replayed = server.ok(&["replay", "exact"]);
    assert_eq!(replayed.matches(&format!("\"payload\":{payload}")).count(), 6, "{replayed}");
    let read = server.ok(&["consume", "exact", "--group", "g", "--max", "6", "--json"]);
    assert_eq!(read.matches(&format!("\"payload\":{payload}")).count(), 6, "{read}");
    let live = server.ok(&["tail", "c", "--since", "0-0", "--max", "2", "--json"]);
    assert_eq!(live.matches(&format!("\"data\":{payload}")).count(), 2, "{live}");
}

#[test]
fn every_part_of_an_event_can_be_given() {
    let (_folder, server) = server();
    let add = [
        "add",
        "orders",
        "{}",
        "--type",
        "order.created",
        "--key",
        "k",
        "--idempotency-key",
        "i",
        "--metadata",
        "{\"trace\":1}",
        "--user",
        "anna",
        "--timestamp",
        "2026-01-02T03:04:05Z",
    ];
    let first = server.ok(&add);
    assert_eq!(server.ok(&add), first, "the same key gives the first id");
    let event: Value = serde_json::from_str(&server.ok(&["replay", "orders"])).unwrap();
    assert_eq!(event["messageId"], first.trim());
    assert_eq!((&event["key"], &event["userId"]), (&json!("k"), &json!("anna")));
    assert_eq!(event["metadata"], json!({"trace": 1}));
    assert_eq!(event["timestamp"], "2026-01-02T03:04:05Z");
    let added = server.json(&["add", "orders", "1", "--type", "t"]);
    assert!(added["messageId"].is_string());
}

#[test]
fn replays_are_filtered_bounded_and_paced() {
    let (_folder, server) = server();
    let lines: String = (0..30).map(|n| format!("{n}\n")).collect();
    let mut add = server.apix(&["add", "s", "--ndjson", "--type", "even"]);
    finish_with_input(&mut add, lines.as_bytes()).ok();
    server.ok(&["add", "s", "99", "--type", "odd"]);
    let payloads = |arguments: &[&str]| -> Vec<i64> {
        let text = server.ok(&[&["replay", "s"], arguments].concat());
        let payload =
            |line| serde_json::from_str::<Value>(line).unwrap()["payload"].as_i64().unwrap();
        text.lines().map(payload).collect()
    };
    assert_eq!(payloads(&["--limit", "2"]), [0, 1]);
    assert_eq!(payloads(&["--order", "desc", "--limit", "2"]), [99, 29]);
    assert_eq!(payloads(&["--event-type", "odd"]), [99]);
    assert_eq!(payloads(&["--from", "2999-01-01T00:00:00Z"]), [0; 0]);
    let began = Instant::now();
    assert_eq!(payloads(&["--limit", "5", "--rate", "20"]).len(), 5);
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_command_handles_events_and_failures_come_again() {
    let (folder, server) = server();
    server.ok(&["groups", "jobs", "configure", "g", "--backoff", "10ms", "--max-deliveries", "3"]);
    for n in 0..4 {
        server.ok(&["add", "jobs", &format!("{{\"n\":{n}}}"), "--type", "job"]);
    }
    // Fails for 1 at first, for 2 always.
    let script = "read payload; echo \"$APIX_EVENT_TYPE $APIX_DELIVERY_COUNT $payload\" >> log; \
        case \"$payload $APIX_DELIVERY_COUNT\" in *1}*\\ 1|*2}*) exit 7;; esac; test -z \"$APIX_TOKEN\"";
    let mut consume =
        server.apix(&["consume", "jobs", "--group", "g", "--exec", script, "--max", "7"]);
    let ran = finish(consume.current_dir(folder.path()));
    assert!(ran.stderr.contains("exit status: 7"), "{}", ran.stderr);
    ran.ok();
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let mut seen: Vec<&str> = log.lines().collect();
    seen.sort_unstable();
    let expected = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1)];
    let mut expected = expected.map(|(n, count)| format!("job {count} {{\"n\":{n}}}"));
    expected.sort();
    assert_eq!(seen, expected);

    let listed = server.ok(&["dead-letters", "jobs", "--group", "g"]);
    assert!(listed.starts_with("MESSAGE ID") && listed.contains("exit status: 7"), "{listed}");
    let one = server.json(&["dead-letters", "jobs", "--group", "g"]);
    assert_eq!(one["event"]["payload"], json!({"n": 2}));
    assert_eq!(one["attempts"].as_array().unwrap().len(), 3);
    let id = one["messageId"].as_str().unwrap();
    let retried = server.ok(&["dead-letters", "jobs", "--group", "g", "retry", "--ids", id]);
    assert_eq!(retried, "1 handed out again\n");
    let again = server.ok(&["consume", "jobs", "--group", "g", "--max", "1"]);
    assert_eq!(again, format!("{id}  job  {{\"n\":2}}\n"));
    let discarded =
        server.ok(&["dead-letters", "jobs", "--group", "g", "discard", "--all", "--yes"]);
    assert_eq!(discarded, "0 dropped\n");
}

#[test]
fn a_long_command_keeps_its_lease() {
    let (_folder, server) = server();
    server.ok(&["groups", "jobs", "configure", "g", "--lease", "500ms"]);
    server.ok(&["add", "jobs", "1", "--type", "job"]);
    server.ok(&["consume", "jobs", "--group", "g", "--exec", "sleep 1.5", "--max", "1"]);
    let group = server.json(&["groups", "jobs", "show", "g"]);
    assert_eq!((&group["pending"], &group["parked"]), (&json!(0), &json!(0)), "{group}");
    assert_eq!(group["lag"], 0);
}

#[test]
fn an_interrupted_consumer_finishes_what_it_has_begun() {
    let (folder, server) = server();
    for n in 0..3 {
        server.ok(&["add", "jobs", &n.to_string(), "--type", "job"]);
    }
    let script = "touch begun; sleep 1; echo done >> log";
    let mut consume =
        server.apix(&["consume", "jobs", "--group", "g", "--count", "3", "--exec", script]);
    let mut child = consume.current_dir(folder.path()).spawn().unwrap();
    eventually(|| folder.path().join("begun").exists(), |begun| *begun);
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "done\n");
    // What it held and had not begun is there for others at once, not after the lease of 30 s.
    let rest = server.ok(&["consume", "jobs", "--group", "g", "--max", "2", "--consumer", "other"]);
    assert_eq!(rest.lines().count(), 2);
}

/// A command that goes on, line by line.
struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Following {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let mut child =
            server.apix(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("it ended").unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes until somebody has received it.
fn publish_until_heard(server: &Server, channel: &str) {
    let publish = || server.json(&["publish", channel, "\"ping\"", "--type", "ping"]);
    eventually(publish, |answer| answer["subscriberCount"] != 0);
}

#[test]
fn looking_changes_nothing_and_starts_now() {
    let (_folder, server) = server();
    server.ok(&["add", "s", "\"old\"", "--type", "t"]);
    let mut looking = Following::start(&server, &["consume", "s"]);
    // It cannot be seen from outside when it looks, so there is something to see until it does.
    let lines = std::thread::scope(|scope| {
        let first = scope.spawn(|| looking.next());
        while !first.is_finished() {
            server.ok(&["add", "s", "\"new\"", "--type", "t"]);
        }
        first.join().unwrap()
    });
    assert!(lines.ends_with("t  \"new\""), "{lines}");
    assert_eq!(server.json(&["groups", "s"])["groups"], json!([]));
    let all = server.ok(&["consume", "s", "--from", "0-0", "--max", "1"]);
    assert!(all.ends_with("t  \"old\"\n"), "{all}");
}

#[test]
fn a_tail_survives_a_restart_and_catches_up() {
    let folder = folder();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = free.to_string();
    let server = Server::start(folder.path(), &["--listen", &listen]);
    let hybrid = |server: &Server, n: u32| {
        let n = n.to_string();
        server.ok(&["hybrid", &n, "--type", "t", "--stream", "s", "--channel", "c"]);
    };
    hybrid(&server, 0);
    let mut tail = Following::start(&server, &["tail", "c", "--since", "0-0"]);
    assert!(tail.next().ends_with("t  0"));
    hybrid(&server, 1);
    assert!(tail.next().ends_with("t  1"));
    server.kill();
    let server = Server::start(folder.path(), &["--listen", &listen]);
    for n in 2..20 {
        hybrid(&server, n);
    }
    for n in 2..20 {
        let line = tail.next();
        assert!(line.ends_with(&format!("t  {n}")), "{n}: {line}");
    }
    signal(tail.child.id(), "INT");
    assert_eq!(tail.child.wait().unwrap().code(), Some(0));
}

#[test]
fn published_lines_arrive_in_order() {
    let (_folder, server) = server();
    let mut tail = Following::start(&server, &["tail", "c"]);
    publish_until_heard(&server, "c");
    let lines: String = (0..200).map(|n| format!("{n}\n")).collect();
    let mut publish = server.apix(&["publish", "c", "--ndjson", "--type", "tick"]);
    let ran = finish_with_input(&mut publish, format!("{lines}oops\n").as_bytes());
    assert!(ran.stderr.contains("line 201: ") && ran.stderr.contains("200 sent"), "{}", ran.stderr);
    ran.refused(3);
    let ticks = std::iter::from_fn(|| Some(tail.next())).filter(|line| line.contains("  tick  "));
    for (n, line) in ticks.take(200).enumerate() {
        assert!(line.ends_with(&format!("tick  {n}")), "{n}: {line}");
    }
}

#[test]
fn streams_and_groups_are_shown_set_and_removed() {
    let (_folder, server) = server();
    server.ok(&["add", "orders", "1", "--type", "t"]);
    server.ok(&["consume", "orders", "--group", "billing", "--max", "1"]);
    let table = server.ok(&["streams"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1]), ("orders", "1"), "{table}");
    server.ok(&["streams", "configure", "orders", "--max-age", "2d", "--max-len", "500"]);
    server.ok(&["streams", "configure", "orders", "--max-bytes", "1MiB", "--max-age", "none"]);
    let shown = server.json(&["streams", "show", "orders"]);
    let retention = &shown["retention"];
    assert_eq!((&retention["maxAgeMs"], &retention["maxLen"]), (&Value::Null, &json!(500)));
    assert_eq!(retention["maxBytes"], 1 << 20);
    assert!(server.ok(&["streams", "show", "orders"]).contains("billing"));

    server.ok(&["groups", "orders", "configure", "billing", "--lease", "2m", "--pause"]);
    server.ok(&["groups", "orders", "configure", "billing", "--max-deliveries", "9"]);
    let group = server.json(&["groups", "orders", "show", "billing"]);
    assert_eq!((&group["leaseMs"], &group["maxDeliveries"]), (&json!(120_000), &json!(9)));
    assert_eq!(group["paused"], true);
    server.ok(&["groups", "orders", "configure", "billing", "--resume"]);
    assert!(server.ok(&["groups", "orders"]).starts_with("GROUP"));
    server.ok(&["groups", "orders", "seek", "billing", "start"]);
    assert!(
        server.ok(&["consume", "orders", "--group", "billing", "--max", "1"]).contains("  t  1")
    );
    server.ok(&["groups", "orders", "delete", "billing", "--yes"]);
    assert_eq!(server.json(&["groups", "orders"])["groups"], json!([]));
    server.ok(&["streams", "delete", "orders", "--yes"]);
    assert_eq!(server.json(&["streams"])["streams"], json!([]));
}

#[test]
fn a_benchmark_counts_and_cleans_up() {
    let (_folder, server) = server();
    let lines = server.ok(&["bench", "--events", "300", "--callers", "4", "--json"]);
    let all: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(all.len(), 3);
    for one in &all {
        assert_eq!(one["events"], 300, "{one}");
        assert!(one["setting"].as_str().unwrap().contains("over HTTP"));
        assert!(one["p50Us"].as_u64().unwrap() <= one["maxUs"].as_u64().unwrap());
    }
    assert_eq!(server.json(&["streams"])["streams"], json!([]));
    let table = server.ok(&["bench", "add", "--events", "100"]);
    assert!(table.contains("MEASURED") && table.contains("add, one event a call"), "{table}");
    let inside =
        server.ok(&["bench", "--broker", "memory:", "--events", "1000", "--batch", "10", "--json"]);
    assert_eq!(inside.lines().count(), 3, "{inside}");
}

#[test]
fn completions_for_every_shell() {
    let (_folder, server) = server();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(server.ok(&["completions", shell]).contains("dead-letters"), "{shell}");
    }
}
