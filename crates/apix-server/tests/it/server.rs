//! An `apix serve` of the test's own, ended when it is dropped.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::run::apix;

/// The token of every server of the tests.
pub(crate) const TOKEN: &str = "test-token-of-the-tests";

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    log: std::path::PathBuf,
}

impl Server {
    /// Starts it with `--dev` on a free port, with its data and its log in `folder`.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let data = format!("embedded:{}", folder.join("data").display());
        let mut command = apix();
        command.env("APIX_DEV_TOKEN", TOKEN).env("APIX_BROKER", data);
        command.env("APIX_LISTEN", "127.0.0.1:0").current_dir(folder);
        command.args(["serve", "--dev"]).args(arguments);
        Self::spawn(folder, &mut command)
    }

    /// Starts `command`, which is an `apix serve`, and waits until it is ready.
    pub(crate) fn spawn(folder: &Path, command: &mut Command) -> Self {
        let log = folder.join("server.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&ready) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("not ready: {}", std::fs::read_to_string(&log).unwrap());
        };
        Self { child, url: ready["url"].as_str().unwrap().to_owned(), log }
    }

    /// A client command against this server.
    pub(crate) fn apix(&self, arguments: &[&str]) -> Command {
        let mut command = apix();
        command.env("APIX_URL", &self.url).env("APIX_TOKEN", TOKEN).args(arguments);
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that is in use, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success());
}

/// A folder that goes with the test.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("apix-test-").tempdir().unwrap()
}

/// An HTTP client with the token of the tests.
pub(crate) fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().unwrap();
    });
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    reqwest::Client::builder()
        .default_headers(headers)
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .unwrap()
}
