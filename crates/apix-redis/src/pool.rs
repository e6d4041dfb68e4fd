//! A bounded number of connections for reads that wait in the server.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use apix::Result;

use crate::connect::{Connection, Connector};
use crate::error::malformed;
use crate::wire::Pipeline;

/// Connections that one read at a time has for itself.
#[derive(Debug)]
pub(crate) struct Pool {
    connector: Connector,
    timeout: std::time::Duration,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    client_id: i64,
}

impl Pool {
    pub(crate) fn new(connector: Connector, most: usize, timeout: std::time::Duration) -> Self {
        let permits = Arc::new(Semaphore::new(most));
        Self { connector, timeout, permits, idle: Arc::default() }
    }

    /// A connection, if fewer than the most are out. It fails where the server does not say who
    /// the connection is: a read on it could not be woken.
    pub(crate) async fn take(&self) -> Result<Option<Blocking>> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return Ok(None) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Idle { connection, client_id } = match idle {
            Some(idle) => idle,
            None => self.connect().await?,
        };
        Ok(Some(Blocking { connection, client_id, home: Arc::clone(&self.idle), _permit: permit }))
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
