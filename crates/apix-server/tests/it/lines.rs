//! NDJSON in and out, much more of it than memory should hold.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::server::{Server, folder};

/// `APIX_TEST_LINES=1000000` is what a release build does in the same time.
fn lines_to_send() -> u64 {
    std::env::var("APIX_TEST_LINES").map_or(200_000, |text| text.parse().unwrap())
}

const MAY_GROW_BYTES: u64 = 64 << 20;

#[test]
fn lines_in_and_out_leave_the_memory_of_the_server_flat() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    // What every server needs once anything was added is not what the lines cost.
    send(&server, 0..1_000);
    let before = server.memory_bytes();
    let count = lines_to_send();
    let (most, ()) = watched(&server, || {
        send(&server, 1_000..count);
        receive(&server, count);
    });
    let grown = most.saturating_sub(before);
    println!("{count} lines: {} KiB before, at most {} KiB", before >> 10, most >> 10);
    assert!(grown < MAY_GROW_BYTES, "{count} lines made the server grow by {} KiB", grown >> 10);
}

fn send(server: &Server, numbers: std::ops::Range<u64>) {
    let mut add = server.apix(&["add", "lines", "--ndjson"]);
    let mut child = add.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = std::io::BufWriter::new(child.stdin.take().unwrap());
    for n in numbers.clone() {
        writeln!(
            stdin,
            "{{\"eventType\":\"line\",\"payload\":{{\"n\":{n},\"text\":\"{:0>200}\"}}}}",
            n
        )
        .unwrap();
    }
    drop(stdin.into_inner().unwrap());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let added = numbers.end - numbers.start;
    assert!(said.contains(&format!("{added} events added, 0 lines refused")), "{said}");
}

fn receive(server: &Server, count: u64) {
    let mut replay = server.apix(&["replay", "lines"]);
    let mut child = replay.stdout(Stdio::piped()).spawn().unwrap();
    let mut expected = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(event["payload"]["n"], expected);
        expected += 1;
    }
    assert_eq!(expected, count);
    assert!(child.wait().unwrap().success());
}

/// Does `work` and says how large the server was at most.
fn watched<T>(server: &Server, work: impl FnOnce() -> T) -> (u64, T) {
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(server.memory_bytes(), Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        (most.load(Ordering::Acquire), result)
    })
}
