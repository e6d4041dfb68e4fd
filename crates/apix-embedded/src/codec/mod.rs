//! How records are written as bytes. Every blob ends with its checksum; nothing here knows SQL.

pub(crate) mod event;
pub(crate) mod group;
pub(crate) mod rows;
pub(crate) mod wire;
