//! Adding events as `application/x-ndjson`: a line in, a line out, both as streams.
//!
//! What has arrived is added in one batch while the next is read; one batch is on its way at a
//! time, so the stream keeps the order of the lines. Memory is bounded: while the answers are not
//! taken, nothing more is read. A client has to read answers while it sends.

use std::convert::Infallible;
use std::pin::pin;

use apix::json::ObjectWriter;
use apix::{Event, MessageId, StreamName};
use axum::body::{Body, BodyDataStream};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::answer;
use super::body::{Upload, too_slow};
use super::events::write_id;
use super::lines::{Line, Lines};
use crate::auth::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::forms::{EventForm, parse};
use crate::gateway::Gateway;

/// Answers of so many batches may wait for the client.
const BATCHES_AHEAD: usize = 4;
/// A batch takes no further line beyond so many bytes.
const FULL_BATCH_BYTES: usize = 2 << 20;

/// Begins to add the lines of `upload`; the answer streams.
pub(super) fn ingest(
    gateway: &Gateway,
    caller: Caller,
    stream: &StreamName,
    upload: Upload,
) -> Response {
    let (answers, receiver) = mpsc::channel::<Bytes>(BATCHES_AHEAD);
    let target = Target { gateway: gateway.clone(), caller, stream: stream.clone() };
    let ingest = Ingest {
        lines: Lines::new(gateway.http().max_line_bytes),
        target,
        answers,
        batch: Batch::default(),
    };
    let pieces = upload.into_pieces();
    let stopped = gateway.stopped().clone();
    gateway.tasks().spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = ingest.run(pieces) => {}
        }
    });
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        let answer = receiver.recv().await?;
        Some((Ok::<_, Infallible>(answer), receiver))
    });
    answer::with_type(StatusCode::OK, "application/x-ndjson", Body::from_stream(body))
}

struct Ingest {
    target: Target,
    lines: Lines,
    batch: Batch,
    answers: mpsc::Sender<Bytes>,
}

/// Lines that were read and not added yet: events, and faults in their places.
#[derive(Default)]
struct Batch {
    lines: Vec<(u64, Result<(), ApiError>)>,
    events: Vec<Event>,
    bytes: usize,
}

/// Why no more is read.
enum End {
    /// Everything was read.
    Complete,
    /// The client is gone; an unfinished line is none.
    Broken,
    /// The client is told why.
    Refused(ApiError),
}

impl Ingest {
    async fn run(mut self, mut pieces: BodyDataStream) {
        let mut draining = pin!(self.target.gateway.draining().clone().cancelled_owned());
        let mut expired = pin!(self.target.caller.expiry.reached());
        let limit = self.target.gateway.http().body_timeout;
        let mut adding: Option<BoxFuture<'static, Bytes>> = None;
        let mut end = None;
        loop {
            self.fill(end.as_ref());
            if adding.is_none() && !self.batch.lines.is_empty() {
                let batch = std::mem::take(&mut self.batch);
                adding = Some(self.target.clone().add(batch).boxed());
                continue;
            }
            if adding.is_none() && end.is_some() {
                break;
            }
            let reads = end.is_none() && !self.batch_is_full();
            tokio::select! {
                answer = async { adding.as_mut()?.await.into() }, if adding.is_some() => {
                    adding = None;
                    let answer: Option<Bytes> = answer;
                    if self.answers.send(answer.unwrap_or_default()).await.is_err() {
                        return;
                    }
                }
                () = &mut draining, if end.is_none() => {
                    end = Some(End::Refused(stopping()));
                }
                () = &mut expired, if end.is_none() => {
                    end = Some(End::Refused(token_ended()));
                }
                piece = tokio::time::timeout(limit, pieces.next()), if reads => match piece {
                    Ok(Some(Ok(piece))) => self.lines.push(&piece),
                    Ok(Some(Err(_))) => end = Some(End::Broken),
                    Ok(None) => end = Some(End::Complete),
                    Err(_) => end = Some(End::Refused(too_slow(limit))),
                },
            }
        }
        if let Some(End::Refused(error)) = end {
            let mut out = Vec::new();
            write_fault(self.lines.next_number(), &error, &mut out);
            let _ = self.answers.send(out.into()).await;
        }
    }

    fn batch_is_full(&self) -> bool {
        self.batch.lines.len() >= self.target.gateway.service().limits().max_batch_events
            || self.batch.bytes >= FULL_BATCH_BYTES
    }

    /// Moves whole lines into the batch, and what follows the last break once all was read.
    fn fill(&mut self, end: Option<&End>) {
        while !self.batch_is_full() {
            let line = match (self.lines.next(), end) {
                (Some(line), _) => line,
                (None, Some(End::Complete)) => match self.lines.last() {
                    Some(line) => line,
                    None => return,
                },
                (None, _) => return,
            };
            let number = line.number;
            self.batch.bytes += line.text.as_ref().map_or(0, Bytes::len);
            match self.target.read(line) {
                Ok(event) => {
                    self.batch.events.push(event);
                    self.batch.lines.push((number, Ok(())));
                }
                Err(fault) => self.batch.lines.push((number, Err(fault))),
            }
        }
    }
}

/// Where the events go.
#[derive(Clone)]
struct Target {
    gateway: Gateway,
    caller: Caller,
    stream: StreamName,
}

impl Target {
    fn read(&self, line: Line) -> Result<Event, ApiError> {
        let Some(text) = line.text else {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the line has more than {} bytes", self.gateway.http().max_line_bytes),
            ));
        };
        let text = ByteString::try_from(text)
            .map_err(|_| ApiError::invalid("the line is not UTF-8; encode it as UTF-8"))?;
        parse::<EventForm<'_>>("the line", &text)?.into_event(&text, &self.caller.ctx)
    }

    /// Adds the events and writes the answers of all lines.
    async fn add(self, batch: Batch) -> Bytes {
        let mut results = self.add_each(&batch.events).await.into_iter();
        let mut out = Vec::with_capacity(40 * batch.lines.len());
        for (number, line) in batch.lines {
            match line.and_then(|()| results.next().unwrap_or_else(|| Err(no_answer()))) {
                Ok(id) => {
                    write_id(id, &mut out);
                    out.push(b'\n');
                }
                Err(fault) => write_fault(number, &fault, &mut out),
            }
        }
        out.into()
    }

    /// Adds all at once if that goes. A part that is refused for a fault of one of its events is
    /// halved until that one stands alone; order is kept.
    async fn add_each(&self, events: &[Event]) -> Vec<Result<MessageId, ApiError>> {
        let mut results = Vec::with_capacity(events.len());
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            match self.add_part(part).await {
                Ok(ids) => results.extend(ids.into_iter().map(Ok)),
                Err(fault) if part.len() > 1 && is_of_one_event(fault.code) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(fault) => results.extend(part.iter().map(|_| Err(fault.clone()))),
            }
        }
        results
    }

    async fn add_part(&self, part: &[Event]) -> Result<Vec<MessageId>, ApiError> {
        let (service, stream) = (self.gateway.service(), self.stream.as_str());
        let ctx = &self.caller.ctx;
        match part {
            [] => Ok(Vec::new()),
            [one] => {
                let added = service.add_event_to_stream(ctx, stream, one.clone());
                Ok(vec![self.gateway.within(added).await?])
            }
            many => {
                let added = service.add_events_to_stream(ctx, stream, many.to_vec());
                self.gateway.within(added).await
            }
        }
    }
}

/// Whether an error of a batch is that of one of its events.
fn is_of_one_event(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidRequest | ErrorCode::TooLarge | ErrorCode::IdempotencyConflict)
}

fn stopping() -> ApiError {
    ApiError::new(
        ErrorCode::ShuttingDown,
        "the server is stopping: this line and those after it were not read; send them again",
    )
}

fn token_ended() -> ApiError {
    ApiError::unauthorized("the token has expired: this line and those after it were not read")
}

fn no_answer() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the broker gave fewer answers than it was asked for")
}

fn write_fault(number: u64, fault: &ApiError, out: &mut Vec<u8>) {
    let mut error = Vec::new();
    fault.write_json(&mut error, None);
    let mut object = ObjectWriter::begin(out);
    object.number("line", number);
    object.json("error", &String::from_utf8_lossy(&error));
    object.end();
    out.push(b'\n');
}
