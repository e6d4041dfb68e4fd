//! Lines up and answers down, at the same time, over one request: `add --ndjson`.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::{Body, Method, Response, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{Client, ErrorPart};
use crate::event_args::event_of_line;
use crate::failure::Failure;
use crate::input::{Lines, is_blank};
use crate::progress::Progress;
use crate::terminal::{printable, rate_text};

/// A part of the body is sent when it has so many bytes, or when no further line is waiting.
const PART_BYTES: usize = 64 << 10;

/// A source may be quiet for longer than the server waits: it is then told that we are there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// So many failing lines are shown one by one; `--json` prints them all.
const SHOWN_FAILURES: u64 = 20;

/// What the sending side tells the reading side.
#[derive(Default)]
struct Sent {
    lines: AtomicU64,
    /// Why the lines ended early.
    fault: Mutex<Option<anyhow::Error>>,
}

/// How an upload is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// The answers as they come, on standard output.
    pub(crate) json: bool,
}

/// Sends every line as an event to `stream`; with `event_type` each line is a payload.
pub(crate) async fn upload(
    client: &Client,
    stream: &str,
    lines: Lines,
    event_type: Option<String>,
    report: Report,
) -> Result<()> {
    let sent = Arc::new(Sent::default());
    let body = Body::wrap_stream(parts(lines, event_type, Arc::clone(&sent)));
    let request = client
        .streaming(Method::POST, &["v1", "streams", stream, "events"])?
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .header(header::ACCEPT, "application/x-ndjson")
        .body(body);
    let response = client.send(request).await?;
    let mut tally = Tally::new(report);
    let answers = tally.read(client, response).await;
    let elapsed = tally.progress.finish();
    let fault = sent.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    crate::terminal::say(format_args!(
        "{} events added, {} lines refused, in {:.1} s ({})",
        tally.added,
        tally.refused,
        elapsed.as_secs_f64(),
        rate_text(tally.added, elapsed)
    ));
    if let Some(fault) = fault {
        return Err(fault);
    }
    answers?;
    tally.verdict(sent.lines.load(Ordering::Acquire))
}

/// The body. It cannot fail: what goes wrong with the lines ends it and is kept beside it, so
/// that the lines before are answered all the same.
fn parts(
    mut lines: Lines,
    event_type: Option<String>,
    sent: Arc<Sent>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    let reading = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let part = next_part(&mut lines, event_type.as_deref(), &sent).await;
            if part.is_empty() || sender.send(Bytes::from(part)).await.is_err() {
                return;
            }
        }
    }));
    stream::unfold((receiver, reading), |(mut receiver, reading)| async move {
        let part = match timeout(KEEP_ALIVE, receiver.recv()).await {
            Ok(part) => part?,
            // White space before a line changes neither it nor its number.
            Err(_) => Bytes::from_static(b" "),
        };
        Some((Ok(part), (receiver, reading)))
    })
}

async fn next_part(lines: &mut Lines, event_type: Option<&str>, sent: &Sent) -> Vec<u8> {
    let mut part = Vec::with_capacity(PART_BYTES + 1_024);
    loop {
        match lines.next().await {
            Ok(Some((number, line))) => {
                if is_blank(&line) {
                    // Kept, so that the server's line numbers are those of the input.
                    part.push(b'\n');
                } else {
                    match event_of_line(event_type, line) {
                        Ok(event) => part.extend_from_slice(&event),
                        Err(fault) => {
                            stop(sent, fault.context(format!("line {number}")));
                            return part;
                        }
                    }
                    part.push(b'\n');
                    sent.lines.fetch_add(1, Ordering::AcqRel);
                }
            }
            Ok(None) => return part,
            Err(fault) => {
                stop(sent, fault);
                return part;
            }
        }
        if part.len() >= PART_BYTES || !lines.has_line() {
            return part;
        }
    }
}

fn stop(sent: &Sent, fault: anyhow::Error) {
    *sent.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
}

/// One line of the answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    line: Option<u64>,
}

/// Codes of a server that cannot take lines now, whatever they are.
const AWAY: [&str; 4] = ["shutting_down", "unavailable", "durability_unmet", "request_timeout"];

/// What was answered so far.
struct Tally {
    added: u64,
    refused: u64,
    /// The first error that is not the line's own fault.
    away: Option<String>,
    report: Report,
    progress: Progress,
}

impl Tally {
    fn new(report: Report) -> Self {
        Self { added: 0, refused: 0, away: None, report, progress: Progress::new(None, "events") }
    }

    async fn read(&mut self, client: &Client, response: Response) -> Result<()> {
        let mut arriving = response.bytes_stream();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(part) = arriving.next().await {
            let part = part.map_err(|fault| client.no_answer(&fault))?;
            if self.report.json && io::stdout().lock().write_all(&part).is_err() {
                // Who read the answers has gone (`| head`); the lines are still to be added.
                self.report.json = false;
            }
            rest.extend_from_slice(&part);
            let Some(end) = rest.iter().rposition(|&byte| byte == b'\n') else { continue };
            for line in rest[..end].split(|&byte| byte == b'\n') {
                self.take(line)?;
            }
            rest.drain(..=end);
            self.progress.at(self.added + self.refused);
        }
        if is_blank(&rest) { Ok(()) } else { self.take(&rest) }
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let answer: Answer<'_> = serde_json::from_slice(line).map_err(|_| {
            Failure::unreachable("the server's answer broke off in the middle of a line")
        })?;
        let Some(error) = answer.error else {
            self.added += 1;
            return Ok(());
        };
        self.refused += 1;
        if let Ok(ErrorPart { code, message }) = serde_json::from_str(error.get())
            && AWAY.contains(&code.as_str())
        {
            self.away.get_or_insert_with(|| format!("{message} ({code})"));
        }
        if self.refused <= SHOWN_FAILURES && !self.report.json {
            let line = answer.line.map_or_else(String::new, |line| format!("line {line}: "));
            self.progress.note(&printable(&format!("{line}{}", error_text(error))));
        } else if self.refused == SHOWN_FAILURES + 1 && !self.report.json {
            self.progress.note("further refused lines are counted only; --json prints them all");
        }
        Ok(())
    }

    fn verdict(&self, sent: u64) -> Result<()> {
        let answered = self.added + self.refused;
        if let Some(away) = &self.away {
            return Err(Failure::unreachable(format!("{} of {sent} lines: {away}", self.refused)));
        }
        if answered < sent {
            return Err(Failure::unreachable(format!(
                "the server answered {answered} of {sent} lines; the others may have been added \
                 or not: give lines an idempotencyKey to send them again safely"
            )));
        }
        if self.refused > 0 {
            return Err(Failure::refused(format!("{} of {answered} lines", self.refused)));
        }
        Ok(())
    }
}

/// `{"code","message"}` for people, or whatever else was given as the reason.
fn error_text(error: &RawValue) -> String {
    match serde_json::from_str::<ErrorPart>(error.get()) {
        Ok(ErrorPart { code, message }) => format!("{message} ({code})"),
        Err(_) => error.get().to_owned(),
    }
}
