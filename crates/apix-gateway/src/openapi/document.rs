//! The whole document: operations, schemas, and what all of them share.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::operation::{Body, Operation, Param};
use super::operations::all;
use super::schemas::schemas;
use crate::error::ErrorCode;

/// Errors that any call may end with.
const COMMON: [ErrorCode; 6] = [
    ErrorCode::InvalidRequest,
    ErrorCode::Unauthorized,
    ErrorCode::HostNotAllowed,
    ErrorCode::Internal,
    ErrorCode::Corrupt,
    ErrorCode::Unavailable,
];
/// Errors of calls that act for a tenant.
const OF_TENANTS: [ErrorCode; 3] =
    [ErrorCode::InvalidName, ErrorCode::PermissionDenied, ErrorCode::TenantMismatch];
/// Errors of calls with a body.
const OF_BODIES: [ErrorCode; 3] =
    [ErrorCode::RequestTimeout, ErrorCode::TooLarge, ErrorCode::UnsupportedMediaType];

/// The document as JSON text.
pub(crate) fn document() -> Vec<u8> {
    let mut paths = Map::new();
    for operation in all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(&operation);
    }
    let mut components = json!({
        "securitySchemes": { "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A JWT (HS256, RS256, ES256 or EdDSA, with `exp` and `organizationId` or `org_id`, and \
                `permissions` or `scope`) or an API key. A service credential names the tenant of \
                a call by `Apix-Tenant` and the user by `Apix-User`."
        }},
        "schemas": schemas(),
    });
    components["schemas"]["ErrorCode"] = error_codes();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "APIX",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Durable events on streams, immediate messages on channels, and hybrid \
                events that are both, per tenant. Names of streams and channels are 1 to 128 \
                characters of `A-Z a-z 0-9 . _ - :`, those of tenants, groups and consumers the \
                same without `:`. Payloads are carried byte for byte. Every response has \
                `X-Request-Id`. What is another tenant's answers as what does not exist."
        },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": components,
    });
    document.to_string().into_bytes()
}

fn error_codes() -> Value {
    let status: Map<String, Value> = ErrorCode::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), code.status().into()))
        .collect();
    json!({
        "type": "string",
        "enum": ErrorCode::ALL.map(ErrorCode::as_str),
        "description": "What went wrong. `x-http-status` has the status that goes with each.",
        "x-http-status": status,
    })
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag()],
        "responses": responses(operation),
    });
    if !operation.description.is_empty() {
        described["description"] = operation.description.into();
    }
    let mut parameters: Vec<Value> = path_params(operation.path).collect();
    parameters.extend(operation.params.iter().map(Param::describe));
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if !operation.bodies.is_empty() {
        described["requestBody"] = json!({
            "required": !operation.body_may_be_left_out,
            "content": content(&operation.bodies),
        });
    }
    if operation.is_open() {
        described["security"] = json!([]);
    }
    described
}

fn path_params(path: &str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let schema = match name {
            "group" => "GroupName",
            "id" => "ConnectionId",
            _ => "Name",
        };
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": { "$ref": format!("#/components/schemas/{schema}") },
        })
    })
}

fn content(bodies: &[Body]) -> Map<String, Value> {
    bodies
        .iter()
        .map(|body| (body.media_type.to_owned(), json!({ "schema": body.schema.clone() })))
        .collect()
}

fn responses(operation: &Operation) -> Value {
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    let mut add = |list: &[ErrorCode]| {
        for code in list {
            let of_status = codes.entry(code.status()).or_default();
            if !of_status.contains(&code.as_str()) {
                of_status.push(code.as_str());
            }
        }
    };
    if operation.is_open() {
        add(&[ErrorCode::HostNotAllowed, ErrorCode::Internal]);
    } else {
        add(&COMMON);
        add(&OF_TENANTS);
    }
    if !operation.bodies.is_empty() {
        add(&OF_BODIES);
    }
    add(&operation.errors);
    let mut responses: Map<String, Value> = codes
        .into_iter()
        .map(|(status, codes)| {
            let described = json!({
                "description": codes.join(", "),
                "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/Error" },
                }},
            });
            (status.to_string(), described)
        })
        .collect();
    let mut success = json!({ "description": operation.answer });
    if !operation.answers.is_empty() {
        success["content"] = content(&operation.answers).into();
    }
    responses.insert(operation.status.to_string(), success);
    if let Some((status, answer, body)) = &operation.also {
        let described =
            json!({ "description": answer, "content": content(std::slice::from_ref(body)) });
        responses.insert(status.to_string(), described);
    }
    responses.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("$ref", Value::String(reference)) => found.push(reference.clone()),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_ids_differ() {
        let document: Value = serde_json::from_slice(&document()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let ids: HashSet<_> = all().iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), all().len());
    }

    #[test]
    fn every_code_is_listed_and_belongs_to_a_call() {
        let document: Value = serde_json::from_slice(&document()).unwrap();
        let listed = &document["components"]["schemas"]["ErrorCode"]["enum"];
        assert_eq!(listed.as_array().unwrap().len(), ErrorCode::ALL.len());
        let paths = document["paths"].to_string();
        for code in ErrorCode::ALL {
            // It is what a path that is described never answers, but every other one.
            if code != ErrorCode::MethodNotAllowed {
                assert!(paths.contains(code.as_str()), "{}", code.as_str());
            }
        }
    }
}
