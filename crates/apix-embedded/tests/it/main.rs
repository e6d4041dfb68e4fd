//! The embedded engine from outside: through the `Broker` trait alone.

mod basics;
mod scene;
