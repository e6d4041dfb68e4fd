//! The SQLite file: the only folder that knows SQL.
//!
//! Events are appended by a global position, with one index row a commit; from those rows the index
//! from streams to positions is rebuilt when the folder is opened. Groups write what changed, and
//! now and then all of it.

mod batch;
mod change_rows;
mod fault;
mod flush_mark;
mod image;
mod log_check;
mod reader;
mod schema;
mod writer;

pub(crate) use batch::{Batch, Change};
pub(crate) use fault::{StoreFault, damaged};
pub(crate) use flush_mark::MARK_BYTES;
pub(crate) use reader::{ReadPool, Wanted};

pub(crate) use writer::{Store, StoreOptions};
