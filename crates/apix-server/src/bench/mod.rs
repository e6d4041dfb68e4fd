//! `apix bench`: how fast this server, or this broker in this process, is.

mod args;
mod bed;
mod measure;
mod runs;

pub(crate) use args::Bench;
pub(crate) use runs::run;
