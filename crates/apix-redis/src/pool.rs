//! A bounded number of connections for reads that wait in the server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use apix::Result;

use crate::connect::{Connection, Connector};
use crate::error::malformed;
use crate::wire::Pipeline;

/// After a failure no connection is made for so long: reads that wait try again soon, and many.
const PAUSE: Duration = Duration::from_secs(1);

/// Connections that one read at a time has for itself.
#[derive(Debug)]
pub(crate) struct Pool {
    connector: Connector,
    timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Idle>>>,
    failed_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    client_id: i64,
}

impl Pool {
    pub(crate) fn new(connector: Connector, most: usize, timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(most));
        Self { connector, timeout, permits, idle: Arc::default(), failed_at: Mutex::default() }
    }

    /// A connection, if fewer than the most are out and the server has room for it. It fails where the server does not say who
    /// the connection is: a read on it could not be woken.
    pub(crate) async fn take(&self) -> Result<Option<Blocking>> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return Ok(None) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Idle { connection, client_id } = match idle {
            Some(idle) => idle,
            None if self.failed_lately() => return Ok(None),
            None => {
                let connected = self.connect().await;
                let failed_at = connected.is_err().then(Instant::now);
                *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
                connected?
            }
        };
        Ok(Some(Blocking { connection, client_id, home: Arc::clone(&self.idle), _permit: permit }))
    }

    fn failed_lately(&self) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < PAUSE)
    }

    async fn connect(&self) -> Result<Idle> {
        let mut connection = self.connector.connect("read").await?;
        let replies = connection.call(Pipeline::of(&["CLIENT", "ID"]), self.timeout).await?;
        let reply = replies.first().ok_or_else(|| malformed("no client id"))?.reply()?;
        let client_id = reply.int().ok_or_else(|| malformed("no client id"))?;
        Ok(Idle { connection, client_id })
    }

    /// Lets go of the connections that nobody uses.
    pub(crate) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A connection out of the pool. Unless it is given back it is closed: a reply might still come.
#[derive(Debug)]
pub(crate) struct Blocking {
    pub(crate) connection: Connection,
    /// What `CLIENT UNBLOCK` calls it.
    pub(crate) client_id: i64,
    home: Arc<Mutex<Vec<Idle>>>,
    _permit: OwnedSemaphorePermit,
}

impl Blocking {
    /// Every reply was read: another read may use the connection.
    pub(crate) fn give_back(self) {
        let idle = Idle { connection: self.connection, client_id: self.client_id };
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}
