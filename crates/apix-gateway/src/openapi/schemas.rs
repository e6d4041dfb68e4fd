//! The shapes of what is sent and answered.

use serde_json::{Map, Value, json};

/// All schemas by name.
pub(super) fn schemas() -> Value {
    let mut all = Map::new();
    for part in [names(), events(), settling(), groups(), streams(), live()] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all.into()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list(name: &str) -> Value {
    json!({ "type": "array", "items": reference(name) })
}

/// An object of these fields, of which some must be there, and no other.
fn object(required: &[&str], fields: Value) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": fields,
        "additionalProperties": false,
    })
}

fn or_null(mut schema: Value) -> Value {
    match schema.get("type").cloned() {
        Some(kind) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        None => json!({ "oneOf": [schema, { "type": "null" }] }),
    }
}

fn integer(default: Option<u64>) -> Value {
    match default {
        Some(default) => json!({ "type": "integer", "minimum": 0, "default": default }),
        None => json!({ "type": "integer", "minimum": 0 }),
    }
}

fn names() -> Value {
    json!({
        "Name": {
            "type": "string",
            "pattern": "^[A-Za-z0-9._:-]{1,128}$",
            "description": "The name of a stream or channel.",
        },
        "GroupName": {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,128}$",
            "description": "The name of a group, a consumer or a tenant.",
        },
        "ConnectionId": { "type": "string", "pattern": "^[0-9a-f]{32}$" },
        "MessageId": {
            "type": "string",
            "pattern": "^[0-9]+-[0-9]+(@[0-9]+)?$",
            "description": "Unix milliseconds and a count; on a partition with its number.",
        },
        "Time": { "type": "string", "format": "date-time" },
        "Label": { "type": "string", "minLength": 1, "maxLength": 256 },
        "Error": object(&["error"], json!({
            "error": object(&["code", "message", "requestId"], json!({
                "code": reference("ErrorCode"),
                "message": { "type": "string", "description": "What would be right." },
                "requestId": { "type": "string" },
            })),
        })),
        "Health": object(&["status"], json!({ "status": { "type": "string" } })),
        "Document": { "type": "object" },
    })
}

fn new_event_fields() -> Value {
    json!({
        "eventType": reference("Label"),
        "payload": { "description": "Any JSON, kept byte for byte." },
        "timestamp": reference("Time"),
        "organizationId": reference("GroupName"),
        "userId": { "type": "string", "maxLength": 256 },
        "metadata": { "type": "object" },
        "key": reference("Label"),
        "idempotencyKey": reference("Label"),
    })
}

fn event_fields() -> Value {
    json!({
        "messageId": reference("MessageId"),
        "eventType": { "type": "string" },
        "payload": { "description": "Any JSON, byte for byte as it was sent." },
        "timestamp": { "type": "string" },
        "organizationId": reference("GroupName"),
        "userId": { "type": "string" },
        "metadata": { "type": "object" },
        "key": { "type": "string" },
        "realtimeChannel": reference("Name"),
        "prevMessageId": reference("MessageId"),
    })
}

const EVENT: [&str; 5] = ["messageId", "eventType", "payload", "timestamp", "organizationId"];

fn events() -> Value {
    let mut delivery = event_fields();
    delivery["deliveryCount"] = integer(None);
    delivery["leaseMs"] = integer(None);
    let delivered: Vec<&str> = EVENT.into_iter().chain(["deliveryCount", "leaseMs"]).collect();
    let mut hybrid = new_event_fields();
    hybrid["options"] = object(
        &[],
        json!({
            "persistToStream": { "type": "boolean", "default": true },
            "notifyRealtime": { "type": "boolean", "default": true },
            "streamName": { "allOf": [reference("Name")], "default": "events" },
            "realtimeChannel": { "allOf": [reference("Name")], "default": "notifications" },
        }),
    );
    json!({
        "NewEvent": object(&["eventType", "payload"], new_event_fields()),
        "HybridEvent": object(&["eventType", "payload"], hybrid),
        "HybridReceipt": object(&[], json!({
            "streamMessageId": reference("MessageId"),
            "subscriberCount": integer(None),
        })),
        "CloudEvent": {
            "type": "object",
            "required": ["specversion", "id", "source", "type"],
            "properties": {
                "specversion": { "const": "1.0" },
                "id": { "type": "string", "minLength": 1 },
                "source": { "type": "string", "minLength": 1 },
                "type": { "type": "string", "minLength": 1 },
                "time": reference("Time"),
                "partitionkey": { "type": "string" },
                "data": {},
                "data_base64": { "type": "string" },
            },
        },
        "Added": object(&["messageId"], json!({ "messageId": reference("MessageId") })),
        "AddedMany": object(&["messageIds"], json!({ "messageIds": list("MessageId") })),
        "LineAnswer": { "oneOf": [reference("Added"), object(&["line", "error"], json!({
            "line": integer(None),
            "error": object(&["code", "message"], json!({
                "code": reference("ErrorCode"),
                "message": { "type": "string" },
            })),
        }))] },
        "Event": object(&EVENT, event_fields()),
        "EventPage": object(&["events", "next"], json!({
            "events": list("Event"),
            "next": or_null(reference("MessageId")),
        })),
        "Delivery": object(&delivered, delivery),
        "Deliveries": object(&["events"], json!({ "events": list("Delivery") })),
    })
}

fn settling() -> Value {
    let ids = || list("MessageId");
    json!({
        "Read": object(&["consumer"], json!({
            "consumer": reference("GroupName"),
            "count": { "type": "integer", "minimum": 1, "maximum": 1000, "default": 10 },
            "waitMs": { "type": "integer", "minimum": 0, "maximum": 30000, "default": 1000 },
        })),
        "Ack": object(&["messageIds"], json!({
            "messageIds": ids(),
            "consumer": reference("GroupName"),
        })),
        "Acked": object(&["acknowledged"], json!({
            "acknowledged": integer(None),
            "leaseLost": ids(),
        })),
        "Reject": object(&["messageId", "consumer", "deliveryCount"], json!({
            "messageId": reference("MessageId"),
            "consumer": reference("GroupName"),
            "deliveryCount": integer(None),
            "reason": { "type": "string", "description": "Kept up to 1,024 bytes." },
            "retryAfterMs": integer(None),
            "deadLetter": { "type": "boolean", "default": false },
        })),
        "Rejected": { "oneOf": [
            object(&["retryAt"], json!({ "retryAt": reference("Time") })),
            object(&["deadLettered"], json!({ "deadLettered": { "const": true } })),
        ] },
        "Extend": object(&["messageIds", "consumer", "leaseMs"], json!({
            "messageIds": ids(),
            "consumer": reference("GroupName"),
            "leaseMs": { "type": "integer", "minimum": 1, "maximum": 86_400_000 },
        })),
        "Extended": object(&["extended"], json!({
            "extended": integer(None),
            "leaseLost": ids(),
        })),
        "Seek": object(&["to"], json!({
            "to": { "type": "string", "description": "`start`, `end`, an id or an RFC 3339 time." },
        })),
        "Attempt": object(&["at", "consumer", "reason"], json!({
            "at": reference("Time"),
            "consumer": { "type": "string" },
            "reason": { "type": "string" },
        })),
        "DeadLetter": object(&["messageId", "reason", "at", "attempts"], json!({
            "messageId": reference("MessageId"),
            "reason": { "type": "string" },
            "at": reference("Time"),
            "attempts": list("Attempt"),
            "event": reference("Event"),
            "raw": {
                "type": "object",
                "additionalProperties": { "type": "string" },
                "description": "The fields of an entry of another service that is no event.",
            },
        })),
        "DeadLetters": object(&["deadLetters", "next"], json!({
            "deadLetters": list("DeadLetter"),
            "next": or_null(reference("MessageId")),
        })),
        "DeadLetterChoice": { "oneOf": [
            object(&["messageIds"], json!({ "messageIds": ids() })),
            object(&["all"], json!({ "all": { "const": true } })),
        ] },
        "Retried": object(&["retried"], json!({ "retried": integer(None) })),
        "Discarded": object(&["discarded"], json!({ "discarded": integer(None) })),
    })
}

fn group_settings() -> Value {
    json!({
        "leaseMs": { "type": "integer", "minimum": 100, "maximum": 86_400_000, "default": 30000 },
        "maxDeliveries": { "type": "integer", "minimum": 1, "default": 5 },
        "backoff": object(&[], json!({
            "baseMs": integer(Some(500)),
            "maxMs": integer(Some(60_000)),
            "factor": { "type": "number", "minimum": 1, "maximum": 100, "default": 2 },
            "jitter": { "type": "number", "minimum": 0, "maximum": 1, "default": 0.2 },
        })),
        "maxInFlight": or_null(json!({ "type": "integer", "minimum": 1, "default": null })),
        "paused": { "type": "boolean", "default": false },
    })
}

fn groups() -> Value {
    let mut stats = group_settings();
    let more = json!({
        "group": reference("GroupName"),
        "lastDeliveredId": reference("MessageId"),
        "lag": or_null(integer(None)),
        "pending": integer(None),
        "parked": integer(None),
        "deadLetters": integer(None),
        "oldestUnacknowledgedId": or_null(reference("MessageId")),
        "oldestUnacknowledgedMs": or_null(integer(None)),
        "lost": integer(None),
        "idleMs": or_null(integer(None)),
        "consumers": { "type": "array", "items": object(
            &["consumer", "pending", "idleMs"],
            json!({
                "consumer": { "type": "string" },
                "pending": integer(None),
                "idleMs": integer(None),
            }),
        ) },
    });
    if let (Value::Object(stats), Value::Object(more)) = (&mut stats, more) {
        stats.extend(more);
    }
    let all: Vec<&str> = stats.as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
    json!({
        "GroupSettings": object(&[], group_settings()),
        "GroupStats": object(&all, stats.clone()),
        "GroupList": object(&["groups"], json!({ "groups": list("GroupStats") })),
    })
}

fn stream_settings() -> Value {
    let limit =
        |default: Value| json!({ "type": ["integer", "null"], "minimum": 1, "default": default });
    json!({
        "retention": object(&[], json!({
            "maxAgeMs": limit(json!(604_800_000)),
            "maxLen": limit(Value::Null),
            "maxBytes": limit(Value::Null),
            "hardMaxBytes": integer(Some(1 << 30)),
        })),
        "idempotency": object(&[], json!({
            "maxAgeMs": { "type": "integer", "minimum": 1, "default": 86_400_000 },
            "maxKeys": { "type": "integer", "minimum": 1, "default": 1_000_000 },
        })),
    })
}

fn streams() -> Value {
    let mut stats = stream_settings();
    let more = json!({
        "stream": reference("Name"),
        "epoch": { "type": "string" },
        "length": integer(None),
        "bytes": integer(None),
        "firstId": or_null(reference("MessageId")),
        "lastId": or_null(reference("MessageId")),
        "trimmedTo": or_null(reference("MessageId")),
        "hardLimitDropped": integer(None),
        "groups": list("GroupStats"),
    });
    if let (Value::Object(stats), Value::Object(more)) = (&mut stats, more) {
        stats.extend(more);
    }
    let all: Vec<&str> = stats.as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
    json!({
        "StreamSettings": object(&[], stream_settings()),
        "StreamStats": object(&all, stats.clone()),
        "StreamList": object(&["streams", "next"], json!({
            "streams": list("StreamStats"),
            "next": or_null(reference("Name")),
        })),
    })
}

fn live() -> Value {
    json!({
        "NewMessage": object(&["type", "data"], json!({
            "type": reference("Label"),
            "data": { "description": "Any JSON, kept byte for byte." },
            "channel": { "allOf": [reference("Name")], "description": "As in the path, if given." },
            "timestamp": reference("Time"),
            "organizationId": reference("GroupName"),
            "userId": { "type": "string", "maxLength": 256 },
        })),
        "Presence": object(
            &["users", "channel", "connections", "anonymous", "next"],
            json!({
                "users": { "type": "array", "items": object(
                    &["userId", "connections", "since"],
                    json!({
                        "userId": { "type": "string" },
                        "connections": integer(None),
                        "since": reference("Time"),
                    }),
                ) },
                "channel": reference("Name"),
                "connections": integer(None),
                "anonymous": integer(None),
                "next": or_null(json!({ "type": "string" })),
            }),
        ),
        "PresenceQuery": object(&["userIds"], json!({
            "userIds": { "type": "array", "items": { "type": "string" }, "maxItems": 1000 },
        })),
        "UserPresence": object(&["users"], json!({
            "users": { "type": "array", "items": object(
                &["userId", "online", "connections"],
                json!({
                    "userId": { "type": "string" },
                    "online": { "type": "boolean" },
                    "connections": integer(None),
                }),
            ) },
        })),
        "Connections": object(&["connections", "next"], json!({
            "connections": { "type": "array", "items": object(
                &["connectionId", "protocol", "since", "channels"],
                json!({
                    "connectionId": { "type": "string" },
                    "userId": { "type": "string" },
                    "protocol": { "enum": ["websocket", "sse"] },
                    "since": reference("Time"),
                    "channels": integer(None),
                    "quality": { "enum": ["excellent", "good", "fair", "poor"] },
                    "rttMs": integer(None),
                }),
            ) },
            "next": or_null(json!({ "type": "string" })),
        })),
        "Published": object(&["subscriberCount"], json!({ "subscriberCount": integer(None) })),
        "NewTicket": object(&[], json!({
            "channels": {
                "type": "array",
                "items": reference("Name"),
                "minItems": 1,
                "maxItems": 100,
                "description": "What the ticket is good for (default all that its maker may do).",
            },
        })),
        "Ticket": object(&["ticket", "expiresAt"], json!({
            "ticket": { "type": "string" },
            "expiresAt": reference("Time"),
        })),
    })
}
