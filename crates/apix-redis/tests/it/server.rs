//! A redis-server of a test's own, and a plain client to it: a neighbour of APIX.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use apix_redis::{RedisBroker, RedisOptions};

/// A server on a free port, in a folder of its own; it ends when this is dropped.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    config: Vec<String>,
    process: Mutex<Option<Child>>,
}

fn binary() -> PathBuf {
    std::env::var_os("APIX_TEST_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub(crate) async fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"]).await
    }

    /// A server that flushes every write.
    pub(crate) async fn durable() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).await
    }

    pub(crate) async fn with(config: &[&str]) -> Self {
        let server = Self {
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            config: config.iter().map(|part| (*part).to_owned()).collect(),
            process: Mutex::new(None),
        };
        server.run().await;
        server
    }

    /// Starts the server, on what an earlier run has left.
    pub(crate) async fn run(&self) {
        let child = Command::new(binary())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server can be started");
        *self.process.lock().unwrap() = Some(child);
        let until = Instant::now() + Duration::from_secs(20);
        while !self.answers() {
            assert!(Instant::now() < until, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && (&answer == b"+PONG" || &answer == b"-NOAU")
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions { url: self.url(), ..RedisOptions::default() }
    }

    pub(crate) async fn broker(&self) -> RedisBroker {
        RedisBroker::connect(self.options()).await.unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A plain Redis client that shares no code with the broker.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Error(String),
    Int(i64),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(int) => *int,
            other => panic!("not an integer: {other:?}"),
        }
    }

    pub(crate) fn array(&self) -> &[Value] {
        match self {
            Self::Array(array) => array,
            other => panic!("not an array: {other:?}"),
        }
    }
}

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub(crate) fn call(&mut self, parts: &[&str]) -> Value {
        self.send(parts);
        self.receive()
    }

    pub(crate) fn send(&mut self, parts: &[&str]) {
        let mut out = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            out.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
        }
        self.stream.write_all(&out).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.byte());
        }
        line.truncate(line.len() - 2);
        String::from_utf8_lossy(&line).into_owned()
    }

    fn byte(&mut self) -> u8 {
        if self.read.is_empty() {
            let mut some = [0; 4_096];
            let count = self.stream.read(&mut some).unwrap();
            assert!(count > 0, "the server closed the connection");
            self.read.extend_from_slice(&some[..count]);
            self.read.reverse();
        }
        self.read.pop().unwrap()
    }

    pub(crate) fn receive(&mut self) -> Value {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Value::Text(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Int(rest.parse().unwrap()),
            "$" if rest == "-1" => Value::Nil,
            "*" if rest == "-1" => Value::Nil,
            "$" => {
                let bytes: Vec<u8> =
                    (0..rest.parse::<usize>().unwrap()).map(|_| self.byte()).collect();
                self.line();
                Value::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => {
                Value::Array((0..rest.parse::<usize>().unwrap()).map(|_| self.receive()).collect())
            }
            other => panic!("not RESP: {other}"),
        }
    }
}
