//! The broker against real servers that each test starts and ends.

mod conformance;
mod disturbed;
mod ioredis;
mod server;
