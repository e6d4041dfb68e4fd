//! The calls of the API, a resource a file.

mod answer;
mod body;
mod channels;
mod cloudevents;
mod connections;
mod dead_letters;
mod description;
mod events;
mod groups;
mod health;
mod hybrid;
mod lines;
mod ndjson;
mod params;
mod presence;
mod range;
mod router;
mod streams;
mod tickets;

pub(crate) use params::{InChannel, Params};
pub(crate) use router::router;
