//! The broker against real servers that each test starts and ends.
#![allow(clippy::unwrap_used)] // a failed assertion is the point of a test

mod access;
mod bounds;
mod conformance;
mod disturbed;
mod faults;
mod guard;
mod ioredis;
mod neighbours;
mod retries;
mod server;
mod tenant;
