//! One call as it is described: what it takes, what it gives, and how it may fail.

use serde_json::{Value, json};

use crate::error::ErrorCode;

/// One call.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) params: Vec<Param>,
    pub(super) bodies: Vec<Body>,
    pub(super) body_may_be_left_out: bool,
    pub(super) status: u16,
    pub(super) answer: &'static str,
    pub(super) answers: Vec<Body>,
    /// Another success than that.
    pub(super) also: Option<(u16, &'static str, Body)>,
    /// Beside those that all calls of its kind share.
    pub(super) errors: Vec<ErrorCode>,
}

/// A parameter of the query or a header.
pub(super) struct Param {
    place: &'static str,
    name: &'static str,
    schema: Value,
    description: &'static str,
}

/// A body in one of its forms.
pub(super) struct Body {
    pub(super) media_type: &'static str,
    pub(super) schema: Value,
}

impl Param {
    pub(super) fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "in": self.place,
            "schema": self.schema,
            "description": self.description,
        })
    }
}

pub(super) const JSON: &str = "application/json";
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn json_body(name: &str) -> Vec<Body> {
    vec![Body { media_type: JSON, schema: schema(name) }]
}

pub(super) fn query(name: &'static str, schema: Value, description: &'static str) -> Param {
    Param { place: "query", name, schema, description }
}

pub(super) fn header(name: &'static str, schema: Value, description: &'static str) -> Param {
    Param { place: "header", name, schema, description }
}

impl Operation {
    pub(super) fn new(method: &'static str, path: &'static str, id: &'static str) -> Self {
        Self {
            method,
            path,
            id,
            summary: "",
            description: "",
            params: Vec::new(),
            bodies: Vec::new(),
            body_may_be_left_out: false,
            status: 200,
            answer: "Done.",
            answers: Vec::new(),
            also: None,
            errors: Vec::new(),
        }
    }

    pub(super) fn says(mut self, summary: &'static str, description: &'static str) -> Self {
        (self.summary, self.description) = (summary, description);
        self
    }

    pub(super) fn takes(mut self, schema: &str) -> Self {
        self.bodies = json_body(schema);
        self
    }

    pub(super) fn gives(mut self, status: u16, answer: &'static str, schema: &str) -> Self {
        (self.status, self.answer) = (status, answer);
        self.answers = if schema.is_empty() { Vec::new() } else { json_body(schema) };
        self
    }

    pub(super) fn fails(mut self, errors: &[ErrorCode]) -> Self {
        self.errors = errors.to_vec();
        self
    }

    pub(super) fn with(mut self, params: Vec<Param>) -> Self {
        self.params = params;
        self
    }

    /// Whether it takes no credential.
    pub(super) fn is_open(&self) -> bool {
        !self.path.starts_with("/v1/")
    }

    pub(super) fn tag(&self) -> &'static str {
        match self.path {
            path if path.contains("/groups") => "groups",
            path if path.starts_with("/v1/streams") => "streams",
            path if [
                "/v1/channels",
                "/v1/presence",
                "/v1/connections",
                "/v1/ws",
                "/v1/tickets",
            ]
            .iter()
            .any(|live| path.starts_with(live)) =>
            {
                "live"
            }
            "/v1/hybrid-events" => "hybrid",
            _ => "operations",
        }
    }
}
