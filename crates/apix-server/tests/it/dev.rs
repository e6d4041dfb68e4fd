//! `apix serve --dev` as a newcomer meets it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::run::{apix, finish, run_in};
use crate::server::{Server, TOKEN, folder, http};

/// A server that prints what a person sees, and what it printed.
struct Shown {
    child: Child,
    text: String,
}

impl Shown {
    fn start(folder: &std::path::Path) -> Self {
        let mut child = apix()
            .current_dir(folder)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        while !text.contains("Ctrl-C") {
            assert!(reader.read_line(&mut text).unwrap() > 0, "it ended: {text}");
        }
        Self { child, text }
    }

    fn after(&self, word: &str) -> &str {
        let line = self.text.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
        line.split_whitespace().nth(1).unwrap()
    }

    fn lines_to_paste(&self) -> Vec<&str> {
        self.text.lines().map(str::trim).filter(|line| line.starts_with("export ")).collect()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As another terminal would: a fresh shell, elsewhere, with nothing of ours in its environment.
fn paste(line: &str) -> String {
    let elsewhere = folder();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env_remove("APIX_URL").env_remove("APIX_TOKEN");
    finish(shell.current_dir(elsewhere.path()).stdin(Stdio::null())).ok()
}

#[test]
fn each_printed_line_does_what_it_says() {
    let folder = folder();
    let shown = Shown::start(folder.path());
    let lines = shown.lines_to_paste();
    assert_eq!(lines.len(), 3, "{}", shown.text);
    // Twice, because a person may.
    for _ in 0..2 {
        let event = paste(lines[0]);
        let [id, handled] = event.lines().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(handled, format!("{id}  order.created  {{\"total\":42}}"));
        let message = paste(lines[1]);
        assert!(message.contains("news  greeting  {\"text\":\"hello\"}"), "{message}");
        assert!(message.contains("subscribers reached: 1"), "{message}");
        let hybrid = paste(lines[2]);
        let live = hybrid.lines().find(|line| line.contains("  live  ")).unwrap();
        let id = live.split_whitespace().nth(2).unwrap();
        assert!(live.ends_with("payment.completed  {\"amount\":5}"), "{hybrid}");
        let replayed = hybrid.lines().find(|line| line.starts_with('{')).unwrap();
        assert!(replayed.contains(&format!("\"messageId\":\"{id}\"")), "{hybrid}");
    }
    assert!(folder.path().join("apix-data").is_dir());
}

#[test]
fn the_token_is_random_and_has_no_rights_beyond_its_tenant() {
    let folder = folder();
    let first = Shown::start(folder.path()).after("token").to_owned();
    let second = Shown::start(folder.path());
    assert_ne!(first, second.after("token"));
    let mut foreign = apix();
    foreign.env("APIX_URL", second.after("address")).env("APIX_TOKEN", first);
    let refused = finish(foreign.args(["streams"])).refused(3);
    assert!(refused.contains("(unauthorized)"), "{refused}");
}

#[tokio::test]
async fn other_hosts_and_other_tenants_are_refused() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--broker", "memory:"]);
    let ask =
        |host: &'static str| http().get(format!("{}/v1/streams", server.url)).header("host", host);
    for host in ["evil.example", "evil.example:2749", "127.0.0.1.evil.example"] {
        let answer = ask(host).send().await.unwrap();
        assert_eq!(answer.status(), 421, "{host}");
        assert!(answer.text().await.unwrap().contains("host_not_allowed"));
    }
    for host in ["localhost", "localhost:2749", "127.0.0.1:1", "[::1]:2749"] {
        assert_eq!(ask(host).send().await.unwrap().status(), 200, "{host}");
    }
    let foreign = serde_json::json!({"eventType": "t", "payload": 1, "organizationId": "other"});
    let address = format!("{}/v1/streams/orders/events", server.url);
    let answer = http().post(address).json(&foreign).send().await.unwrap();
    assert!(answer.text().await.unwrap().contains("tenant_mismatch"));
    let as_other = ask("localhost").header("apix-tenant", "other").send().await.unwrap();
    assert!(!as_other.status().is_success());
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn only_loopback_is_listened_on() {
    let folder = folder();
    for open in ["0.0.0.0:0", "[::]:0"] {
        let refused = run_in(folder.path(), &["serve", "--dev", "--listen", open]).refused(2);
        assert!(refused.contains("loopback"), "{refused}");
    }
    assert!(!folder.path().join("apix-data").exists());
}
