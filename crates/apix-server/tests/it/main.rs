//! The binary as a user meets it: started, used, stopped, killed.

#![allow(clippy::unwrap_used)] // a test that cannot go on may panic

mod commands;
mod configuration;
mod dev;
mod exit_codes;
mod kill;
mod kill_redis;
mod ledger;
mod lines;
mod redis;
mod run;
mod server;
mod shutdown;
mod tls;
