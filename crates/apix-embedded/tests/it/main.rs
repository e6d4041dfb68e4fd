//! The embedded engine from outside: through the `Broker` trait alone.

#![allow(clippy::unwrap_used)] // a failed assertion is the point of a test

mod basics;
mod conformance;
mod crash;
mod cut;
mod faults;
mod ledger;
mod load;
mod marks;
mod model;
mod parked;
mod property;
mod scene;
