//! A checker for the part of JSON Schema that the description uses.

use serde_json::Value;

/// What of `value` does not fit `schema`, whose references lead into `document`.
pub(crate) fn misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(&reference[1..]).unwrap();
        return misfit(document, target, value).map(|fault| format!("{reference}: {fault}"));
    }
    for one in schema["allOf"].as_array().into_iter().flatten() {
        if let Some(fault) = misfit(document, one, value) {
            return Some(fault);
        }
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|one| misfit(document, one, value).is_none()).count();
        if fitting != 1 {
            return Some(format!("{fitting} of the choices fit {value}"));
        }
    }
    if let Some(constant) = schema.get("const").filter(|constant| *constant != value) {
        return Some(format!("{value} is not {constant}"));
    }
    if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return Some(format!("{value} is none of {}", schema["enum"]));
    }
    let types = match &schema["type"] {
        Value::Null => return None,
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |name: &Value| name == kind || (name == "number" && kind == "integer");
    if !types.iter().any(fits) {
        return Some(format!("{value} is no {}", schema["type"]));
    }
    match value {
        Value::Array(items) => {
            items.iter().find_map(|item| misfit(document, &schema["items"], item))
        }
        Value::Object(_) => object_misfit(document, schema, value),
        Value::Number(number) => {
            let below = |least: f64| number.as_f64().unwrap() < least;
            schema["minimum"].as_f64().is_some_and(below).then(|| format!("{value} is too small"))
        }
        _ => None,
    }
}

fn object_misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let fields = value.as_object().unwrap();
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap();
        if !fields.contains_key(name) {
            return Some(format!("{name} is missing in {value}"));
        }
    }
    fields.iter().find_map(|(name, field)| match schema["properties"].get(name) {
        Some(known) => misfit(document, known, field).map(|fault| format!("{name}: {fault}")),
        None if schema["additionalProperties"] == false => Some(format!("{name} is not known")),
        None => None,
    })
}
