//! One connection that all callers share.
//!
//! A caller hands over its commands as one piece and gets their replies as one piece. Whatever
//! waits when the socket is free is written at once, so that many callers become one pipeline and
//! a single caller waits for nobody. When the connection breaks, calls that were written are
//! [`Unavailable`](apix::ErrorKind::Unavailable), as nobody knows whether they took effect, and
//! are never sent again; those that were not yet written go out on the next connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use apix::{Error, Result};

use crate::backoff::Reconnect;
use crate::connect::{Connection, Connector, read_more};
use crate::error::{broken, cause, closed, not_sent};
use crate::guard::Guard;
use crate::resp::Raw;
use crate::wire::Pipeline;

/// At most so many bytes are gathered into one write, unless a single call is larger.
const WRITE_BYTES: usize = 256 << 10;
/// Calls that were written and not yet answered. More than one write can hold, so that the writer
/// never waits for answers to what it has not written yet.
const MAX_IN_FLIGHT: usize = 32 << 10;
/// How often the oldest call in flight, or waiting, is held against its deadline.
const DEADLINE_CHECK: Duration = Duration::from_millis(50);

struct Call {
    bytes: Vec<u8>,
    answer: Answer,
}

struct Answer {
    expected: usize,
    /// When the connection counts as broken; before it is written, the call as too late.
    deadline: Instant,
    to: oneshot::Sender<Result<Vec<Raw>>>,
}

/// A handle to the shared connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    queue: mpsc::Sender<Call>,
    up: Arc<AtomicBool>,
    timeout: Duration,
    guard: Arc<Guard>,
    /// Calls whose answer somebody waits for.
    under_way: Arc<AtomicUsize>,
}

/// Counts a call for as long as somebody waits for its answer.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Serves calls on `first`, and on connections made anew when that one breaks, until `closing`.
    pub(crate) fn open(
        connector: Connector,
        first: Connection,
        queued: usize,
        guard: Guard,
        timeout: Duration,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (queue, calls) = mpsc::channel(queued.max(1));
        let up = Arc::new(AtomicBool::new(true));
        let guard = Arc::new(guard);
        let driver = Driver {
            connector,
            guard: Arc::clone(&guard),
            calls,
            waiting: VecDeque::new(),
            up: Arc::clone(&up),
            closing,
        };
        tasks.spawn(driver.run(first));
        Self { queue, up, timeout, guard, under_way: Arc::default() }
    }

    /// What holds the server to what it has to be.
    pub(crate) fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Whether there is a connection now.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Sends the commands and waits for a reply to each.
    pub(crate) async fn call(&self, pipeline: Pipeline) -> Result<Vec<Raw>> {
        self.call_within(pipeline, self.timeout).await
    }

    /// The same with a time limit of its own. One that is shorter than that of all calls ends this
    /// call only, whose reply is dropped when it comes.
    pub(crate) async fn call_within(
        &self,
        pipeline: Pipeline,
        timeout: Duration,
    ) -> Result<Vec<Raw>> {
        self.guard.check()?;
        self.call_unguarded(pipeline, timeout).await
    }

    /// The same, but the connection counts as broken when the time limit has passed.
    pub(crate) async fn call_or_break(
        &self,
        pipeline: Pipeline,
        timeout: Duration,
    ) -> Result<Vec<Raw>> {
        self.guard.check()?;
        self.exchange(pipeline, timeout, timeout).await
    }

    /// The same also while the server is not what it has to be.
    pub(crate) async fn call_unguarded(
        &self,
        pipeline: Pipeline,
        timeout: Duration,
    ) -> Result<Vec<Raw>> {
        self.exchange(pipeline, timeout, timeout.max(self.timeout)).await
    }

    async fn exchange(
        &self,
        pipeline: Pipeline,
        timeout: Duration,
        breaks_after: Duration,
    ) -> Result<Vec<Raw>> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = UnderWay(&self.under_way);
        let (to, answered) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let breaks_at = Instant::now() + breaks_after;
        let answer = Answer { expected: pipeline.commands(), deadline: breaks_at, to };
        let call = Call { bytes: pipeline.into_bytes(), answer };
        match tokio::time::timeout_at(deadline, self.queue.send(call)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(closed()),
            Err(_) => return Err(not_sent("too many calls wait")),
        }
        let cut = |_| Err(broken("it was cut while the call was under way"));
        if timeout >= breaks_after {
            return answered.await.unwrap_or_else(cut);
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(answer) => answer.unwrap_or_else(cut),
            Err(_) => Err(broken("no answer in time")),
        }
    }

    /// Waits until no call is under way, or as long as one may take.
    pub(crate) async fn finish(&self) {
        let until = Instant::now() + self.timeout;
        while self.under_way.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One command.
    pub(crate) async fn command<A: AsRef<[u8]>>(&self, parts: &[A]) -> Result<Raw> {
        let mut replies = self.call(Pipeline::of(parts)).await?;
        replies.pop().ok_or_else(|| broken("no reply"))
    }
}

struct Driver {
    connector: Connector,
    guard: Arc<Guard>,
    calls: mpsc::Receiver<Call>,
    /// Taken from `calls` while there was no connection, to hold them against their deadlines.
    waiting: VecDeque<Call>,
    up: Arc<AtomicBool>,
    closing: CancellationToken,
}

impl Driver {
    async fn run(mut self, first: Connection) {
        let mut connection = first;
        let closing = self.closing.clone();
        let mut pause = Reconnect::default();
        loop {
            let begun = Instant::now();
            let fault = tokio::select! {
                fault = self.serve(connection) => fault,
                () = closing.cancelled() => return,
            };
            self.up.store(false, Ordering::Relaxed);
            warn!(error = %fault, cause = cause(&fault), "lost the connection to redis");
            connection = tokio::select! {
                connection = self.reconnect(&mut pause, begun.elapsed()) => connection,
                () = closing.cancelled() => return,
            };
            self.up.store(true, Ordering::Relaxed);
            info!("connected to redis again");
        }
    }

    async fn reconnect(&mut self, pause: &mut Reconnect, served: Duration) -> Connection {
        let (connector, guard) = (self.connector.clone(), Arc::clone(&self.guard));
        let connect = async || {
            let mut connection = connector.connect("link").await?;
            guard.ask(&mut connection).await?;
            Ok::<_, Error>(connection)
        };
        let connecting = async {
            tokio::time::sleep(pause.after(served)).await;
            loop {
                match connect().await {
                    Ok(connection) => return connection,
                    Err(fault) => {
                        let next = pause.next();
                        warn!(error = %fault, cause = cause(&fault), retry_in = ?next, "cannot connect to redis");
                        tokio::time::sleep(next).await;
                    }
                }
            }
        };
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                connection = &mut connecting => return connection,
                () = tokio::time::sleep(DEADLINE_CHECK) => self.expire_waiting(),
            }
        }
    }

    /// Gives up on calls that have waited too long for a connection.
    fn expire_waiting(&mut self) {
        while self.waiting.len() < self.calls.max_capacity()
            && let Ok(call) = self.calls.try_recv()
        {
            self.waiting.push_back(call);
        }
        let now = Instant::now();
        for call in std::mem::take(&mut self.waiting) {
            if call.answer.deadline > now {
                self.waiting.push_back(call);
            } else {
                let _ = call.answer.to.send(Err(not_sent("there was no connection in time")));
            }
        }
    }

    async fn serve(&mut self, connection: Connection) -> Error {
        let Connection { socket, buffer, scanner } = connection;
        let (mut read_half, write_half) = tokio::io::split(socket);
        let (written, in_flight) = mpsc::channel(MAX_IN_FLIGHT);
        let mut answers = Answers { in_flight, head: None, replies: Vec::new(), read_only: false };
        let reading = async move {
            let (mut buffer, mut scanner) = (buffer, scanner);
            let mut check = tokio::time::interval(DEADLINE_CHECK);
            loop {
                loop {
                    match scanner.scan(&buffer) {
                        Ok(Some(length)) => {
                            let reply = Raw(buffer.split_to(length).freeze());
                            if let Err(fault) = answers.take(reply) {
                                return fault;
                            }
                        }
                        Ok(None) => break,
                        Err(fault) => return broken(fault.0),
                    }
                }
                tokio::select! {
                    more = read_more(&mut read_half, &mut buffer) => if let Err(fault) = more {
                        return fault;
                    },
                    _ = check.tick() => if answers.overdue() {
                        return broken("no answer in time");
                    },
                }
            }
        };
        // Dropping the reading half drops what was in flight, which tells its callers.
        tokio::select! {
            fault = reading => fault,
            fault = write(write_half, &mut self.waiting, &mut self.calls, written) => fault,
        }
    }
}

/// Whether the server refuses to write because it is a replica. Where its name now stands for
/// another server, a new connection reaches that one.
pub(crate) fn is_read_only(reply: &Raw) -> bool {
    reply.error().is_some_and(|text| text.starts_with(b"READONLY"))
}

/// Hands replies to the calls that they belong to, in order.
struct Answers {
    in_flight: mpsc::Receiver<Answer>,
    head: Option<Answer>,
    replies: Vec<Raw>,
    /// A write was refused because the server is a replica.
    read_only: bool,
}

impl Answers {
    /// The oldest call in flight.
    fn head(&mut self) -> Option<&Answer> {
        if self.head.is_none() {
            self.head = self.in_flight.try_recv().ok();
        }
        self.head.as_ref()
    }

    /// Hands the reply over; an error ends the connection.
    fn take(&mut self, reply: Raw) -> Result<()> {
        let Some(expected) = self.head().map(|answer| answer.expected) else {
            return Err(broken("a reply that nobody asked for"));
        };
        self.read_only |= is_read_only(&reply);
        if self.replies.is_empty() {
            self.replies.reserve_exact(expected);
        }
        self.replies.push(reply);
        if self.replies.len() == expected
            && let Some(answer) = self.head.take()
        {
            // Whoever has given up waiting does not mind.
            let _ = answer.to.send(Ok(std::mem::take(&mut self.replies)));
            if self.read_only {
                return Err(broken("the server has become a read-only replica"));
            }
        }
        Ok(())
    }

    fn overdue(&mut self) -> bool {
        self.head().is_some_and(|answer| answer.deadline < Instant::now())
    }
}

async fn write(
    mut socket: impl AsyncWrite + Unpin,
    waiting: &mut VecDeque<Call>,
    calls: &mut mpsc::Receiver<Call>,
    written: mpsc::Sender<Answer>,
) -> Error {
    let mut out = Vec::with_capacity(WRITE_BYTES);
    loop {
        let first = match waiting.pop_front() {
            Some(call) => call,
            None => match calls.recv().await {
                Some(call) => call,
                // Every handle is gone, so nobody waits for an answer either.
                None => std::future::pending().await,
            },
        };
        // Callers that were answered together ask again together: let them all get in.
        tokio::task::yield_now().await;
        let mut next = Some(first);
        while let Some(call) = next {
            if let Some(answer) = begin(call, &mut out)
                && written.send(answer).await.is_err()
            {
                return broken("the connection is being closed");
            }
            next = if out.len() >= WRITE_BYTES {
                None
            } else {
                waiting.pop_front().or_else(|| calls.try_recv().ok())
            };
        }
        if out.is_empty() {
            continue;
        }
        if let Err(fault) = socket.write_all(&out).await {
            return broken(fault.to_string());
        }
        if let Err(fault) = socket.flush().await {
            return broken(fault.to_string());
        }
        out.clear();
        // One large call should not keep its memory for good.
        out.shrink_to(4 * WRITE_BYTES);
    }
}

/// Puts the call's commands into the next write, unless nobody waits for it any more.
fn begin(call: Call, out: &mut Vec<u8>) -> Option<Answer> {
    if call.answer.to.is_closed() {
        return None;
    }
    if call.answer.deadline < Instant::now() {
        let _ = call.answer.to.send(Err(not_sent("it waited too long")));
        return None;
    }
    out.extend_from_slice(&call.bytes);
    Some(call.answer)
}
