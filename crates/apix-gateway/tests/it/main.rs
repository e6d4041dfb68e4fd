//! The gateway over real connections, against the embedded broker in memory.

#![allow(clippy::unwrap_used)] // a test that fails should say where

mod auth;
mod authorisation;
mod bed;
mod cloudevents;
mod connections;
mod edge;
mod errors;
mod events;
mod failing;
mod frames;
mod groups;
mod hub;
mod isolation;
mod jwks;
mod live;
mod logs;
mod names;
mod ndjson;
mod openapi;
mod presence;
mod redis;
mod renew;
mod schema;
mod service;
mod shutdown;
mod sse;
mod streams;
mod tickets;
mod tokens;
