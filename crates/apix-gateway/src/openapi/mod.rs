//! The description of the API that is served at `/openapi.json`: OpenAPI 3.1.

mod document;
mod operation;
mod operations;
mod schemas;

pub(crate) use document::document;
