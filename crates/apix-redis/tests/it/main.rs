//! The broker against real servers that each test starts and ends.

mod conformance;
mod ioredis;
mod server;
