//! HTTP and live clients of APIX.
//!
//! [`run`] serves the API on any listener until a future says that it is time to stop. The files,
//! in the order of a request:
//!
//! | file | what it holds |
//! | --- | --- |
//! | `server.rs` | accepting connections, time limits, the drain at the end |
//! | `edge.rs`, `cors.rs` | what every request passes: its id, host and origin, the log line, the error form |
//! | `auth.rs`, `jwt.rs`, `tickets.rs` | a credential becomes a `TenantContext`: the only source of a tenant |
//! | `credentials.rs`, `key_set.rs`, `trust.rs` | the keys of the configuration, and whom each may speak for |
//! | `public_key.rs`, `jwks.rs`, `remote_set.rs`, `watched_file.rs` | reading keys, fetching key sets, noticing changes |
//! | `http/` | the calls, a resource a file |
//! | `hub.rs` | one broker subscription for a channel, whoever follows it |
//! | `session.rs` | one live client, whatever it speaks; `protocol.rs` has its frames, `place.rs` the channels they name |
//! | `connections.rs`, `presence.rs` | all live connections, and who is on a channel |
//! | `peers.rs`, `change.rs` | what the processes on one broker tell each other of them |
//! | `status.rs`, `quality.rs` | what backends learn of connections, and how good their links are |
//! | `limits.rs`, `counters.rs` | rates, and what is counted |
//! | `ws.rs`, `sse.rs` | WebSocket and Server-Sent Events, which only translate |
//! | `error.rs` | every error code with its HTTP status |
//! | `openapi/` | the description of all of it that is served at `/openapi.json` |

mod auth;
mod change;
mod config;
mod connections;
mod cors;
mod counters;
mod credentials;
mod edge;
mod error;
mod expiry;
mod forms;
mod gateway;
mod http;
mod hub;
mod jwks;
mod jwt;
mod key_set;
mod limits;
mod openapi;
mod peers;
mod place;
mod presence;
mod protocol;
mod public_key;
mod quality;
mod remote_set;
mod server;
mod session;
mod sse;
mod stall;
mod status;
mod tickets;
mod trust;
mod watched_file;
mod ws;

pub use config::{GatewayConfig, HttpConfig, LiveConfig};
pub use credentials::{Algorithm, ApiKey, AuthConfig, Jwks, JwksSource, JwtKey, KeySource, Secret};
pub use error::ErrorCode;
pub use server::run;
