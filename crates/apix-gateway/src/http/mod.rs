//! The calls of the API, a resource a file.

mod health;
mod router;

pub(crate) use router::router;
