//! The state of all streams and groups, in the hands of the writer thread alone, and what each
//! operation does to it.
//!
//! Nothing here waits: an operation changes the memory, notes what the commit has to write, and
//! leaves its answer until that is written.

mod append;
mod dead;
mod feeds;
mod handout;
mod load;
mod manage;
mod range;
mod record;
mod settle;
mod state;
mod stats;
mod trim;
mod turn;

pub(crate) use append::Prepared;
pub(crate) use dead::{Chosen, DonePart, FoundDead};
pub(crate) use handout::GroupRead;
pub(crate) use range::Looked;
pub(crate) use state::{Engine, EngineOptions};
pub(crate) use turn::{Answer, Turn};
