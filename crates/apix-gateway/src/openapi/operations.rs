//! Every call of the API.

use serde_json::json;

use super::operation::{Body, JSON, NDJSON, Operation, header, query, schema};
use crate::error::ErrorCode;

const STREAMS: &str = "/v1/streams";
const STREAM: &str = "/v1/streams/{stream}";
const EVENTS: &str = "/v1/streams/{stream}/events";
const GROUPS: &str = "/v1/streams/{stream}/groups";
const GROUP: &str = "/v1/streams/{stream}/groups/{group}";

/// All calls, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    let mut all = vec![add_events(), get_events()];
    all.extend(streams());
    all.extend(settling());
    all.extend(groups());
    all.extend(dead_letters());
    all.extend(live());
    all.extend(connections());
    all.extend(operations());
    all
}

const WRITES: [ErrorCode; 5] = [
    ErrorCode::ReservedName,
    ErrorCode::IdempotencyConflict,
    ErrorCode::DurabilityUnmet,
    ErrorCode::StorageFull,
    ErrorCode::Unsupported,
];

fn add_events() -> Operation {
    let one = || vec![schema("NewEvent"), json!({ "type": "array", "items": schema("NewEvent") })];
    let mut call = Operation::new("post", EVENTS, "addEvents")
        .says(
            "Add events",
            "A single event, an array (all or none), a CloudEvent 1.0 in structured, batch or \
             binary form, or NDJSON. NDJSON answers `200` with one line for each line in its \
             order, `{\"messageId\"}` or `{\"line\",\"error\"}`, while it still reads: take the \
             answers while you send. A bad line does not stop the others; blank ones are skipped. \
             `deliverAt` and `delayMs` are refused with `unsupported`.\n\nOf a CloudEvent `type` \
             becomes `eventType`, `time` the `timestamp`, `data` the `payload`, `source` and `id` \
             the idempotency key, `partitionkey` the `key`; all attributes but `type`, `time` and \
             `partitionkey` are kept in `metadata.cloudevents`. Data that is no JSON becomes a \
             JSON string; data that is no text one of Base64, with `data_base64` true.",
        )
        .with(vec![header(
            "Idempotency-Key",
            json!({ "type": "string", "maxLength": 256 }),
            "Of a single JSON event, in place of `idempotencyKey`.",
        )])
        .fails(&WRITES);
    call.bodies = vec![
        Body { media_type: JSON, schema: json!({ "oneOf": one() }) },
        Body { media_type: NDJSON, schema: schema("NewEvent") },
        Body { media_type: "application/cloudevents+json", schema: schema("CloudEvent") },
        Body {
            media_type: "application/cloudevents-batch+json",
            schema: json!({ "type": "array", "items": schema("CloudEvent") }),
        },
    ];
    let added = json!({ "oneOf": [schema("Added"), schema("AddedMany")] });
    call.status = 201;
    call.answer = "Added: the id, or the ids in order.";
    call.answers = vec![Body { media_type: JSON, schema: added }];
    let line = Body { media_type: NDJSON, schema: schema("LineAnswer") };
    call.also = Some((200, "Of NDJSON: a line for each line.", line));
    call.errors.push(ErrorCode::ShuttingDown);
    call
}

fn get_events() -> Operation {
    let bound = || json!({ "type": "string" });
    let mut call = Operation::new("get", EVENTS, "getEvents")
        .says(
            "Past events",
            "A page; `next`, where it is no null, is the `from` (with `order=desc` the `to`) of \
             the page after it. A page may be empty and have a `next`, where nothing that was \
             looked at passed the filter. `Accept: application/x-ndjson` streams all events, an \
             event a line (line breaks between the tokens of a payload become spaces); a fault in \
             the middle ends it with an `{\"error\"}` line.",
        )
        .with(vec![
            query("from", bound(), "An id (inclusive; `(ID` leaves it out) or an RFC 3339 time."),
            query("to", bound(), "As `from`; a time covers its whole millisecond."),
            query(
                "limit",
                json!({ "type": "integer", "minimum": 1, "default": 100 }),
                "At most so many; of a page up to 1,000, of NDJSON any number (default all).",
            ),
            query("order", json!({ "enum": ["asc", "desc"], "default": "asc" }), "Oldest first."),
            query("eventType", json!({ "type": "string" }), "Events of this type only."),
        ])
        .gives(200, "The events.", "EventPage")
        .fails(&[ErrorCode::NotFound]);
    call.answers.push(Body { media_type: NDJSON, schema: schema("Event") });
    call
}

fn streams() -> Vec<Operation> {
    vec![
        Operation::new("get", STREAMS, "listStreams")
            .says("The tenant's streams", "Those that the caller may read, with statistics.")
            .with(vec![
                query("after", schema("Name"), "Streams after this name: `next` of a page."),
                query(
                    "limit",
                    json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 1000 }),
                    "At most so many.",
                ),
            ])
            .gives(200, "The streams.", "StreamList"),
        Operation::new("get", STREAM, "getStream")
            .says("A stream", "Statistics, settings and groups.")
            .gives(200, "The stream.", "StreamStats")
            .fails(&[ErrorCode::NotFound]),
        Operation::new("put", STREAM, "configureStream")
            .says(
                "Settings of a stream",
                "Replaces all of them: what is left out gets its default. Makes the stream where \
                 there is none. `partitions` is refused with `unsupported`.",
            )
            .takes("StreamSettings")
            .gives(200, "The settings in force.", "StreamSettings")
            .fails(&[ErrorCode::Conflict, ErrorCode::Unsupported, ErrorCode::StorageFull]),
        Operation::new("delete", STREAM, "deleteStream")
            .says("Delete a stream", "With its groups, dead letters and everything else.")
            .gives(204, "Deleted.", "")
            .fails(&[ErrorCode::NotFound]),
    ]
}

fn settling() -> Vec<Operation> {
    vec![
        Operation::new("post", "/v1/streams/{stream}/groups/{group}/read", "readGroup")
            .says(
                "Read events as a consumer",
                "Hands out events: first those that are due again, then new ones; waits up to \
                 `waitMs` for the first. Each is held for the group's lease, and comes back \
                 unless it is acknowledged. Makes stream and group where there is none.",
            )
            .takes("Read")
            .gives(200, "The deliveries; none if there was nothing in time.", "Deliveries")
            .fails(&[ErrorCode::StorageFull]),
        Operation::new("post", "/v1/streams/{stream}/groups/{group}/ack", "acknowledge")
            .says(
                "Acknowledge events",
                "With `consumer` only deliveries that it still holds. If none was acknowledged \
                 and some were lost, that is `lease_lost`.",
            )
            .takes("Ack")
            .gives(200, "How many were pending.", "Acked")
            .fails(&[ErrorCode::NotFound, ErrorCode::LeaseLost, ErrorCode::StorageFull]),
        Operation::new("post", "/v1/streams/{stream}/groups/{group}/reject", "reject")
            .says(
                "Reject an event",
                "It comes back after `retryAfterMs`, or after the group's back-off, or becomes a \
                 dead letter: by wish, or after `maxDeliveries`. A stale delivery is `lease_lost`.",
            )
            .takes("Reject")
            .gives(200, "When it is due again, or that it is a dead letter.", "Rejected")
            .fails(&[ErrorCode::NotFound, ErrorCode::LeaseLost, ErrorCode::StorageFull]),
        Operation::new("post", "/v1/streams/{stream}/groups/{group}/extend", "extend")
            .says("Extend leases", "Each is held for `leaseMs` from now.")
            .takes("Extend")
            .gives(200, "How many are held.", "Extended")
            .fails(&[ErrorCode::NotFound, ErrorCode::LeaseLost, ErrorCode::StorageFull]),
        Operation::new("post", "/v1/streams/{stream}/groups/{group}/seek", "seekGroup")
            .says(
                "Set where a group reads next",
                "What it had pending is let go. Makes the group where there is none.",
            )
            .takes("Seek")
            .gives(204, "Done.", "")
            .fails(&[ErrorCode::NotFound, ErrorCode::StorageFull]),
    ]
}

fn groups() -> Vec<Operation> {
    vec![
        Operation::new("get", GROUPS, "listGroups")
            .says("The groups of a stream", "With settings and statistics.")
            .gives(200, "The groups.", "GroupList")
            .fails(&[ErrorCode::NotFound]),
        Operation::new("get", GROUP, "getGroup")
            .says("A group", "Settings and statistics.")
            .gives(200, "The group.", "GroupStats")
            .fails(&[ErrorCode::NotFound]),
        Operation::new("put", GROUP, "configureGroup")
            .says(
                "Settings of a group",
                "Replaces all of them: what is left out gets its default. Makes stream and group \
                 where there is none.",
            )
            .takes("GroupSettings")
            .gives(200, "The settings in force.", "GroupSettings")
            .fails(&[ErrorCode::StorageFull]),
        Operation::new("delete", GROUP, "deleteGroup")
            .says("Delete a group", "With all that it has pending and its dead letters.")
            .gives(204, "Deleted.", "")
            .fails(&[ErrorCode::NotFound]),
    ]
}

fn dead_letters() -> Vec<Operation> {
    let (list, retry, discard) = (
        "/v1/streams/{stream}/groups/{group}/dead-letters",
        "/v1/streams/{stream}/groups/{group}/dead-letters/retry",
        "/v1/streams/{stream}/groups/{group}/dead-letters/discard",
    );
    vec![
        Operation::new("get", list, "listDeadLetters")
            .says("Dead letters", "In the order of their ids.")
            .with(vec![
                query("after", schema("MessageId"), "Those after this id: `next` of a page."),
                query(
                    "limit",
                    json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
                    "At most so many.",
                ),
            ])
            .gives(200, "The dead letters.", "DeadLetters")
            .fails(&[ErrorCode::NotFound]),
        Operation::new("post", retry, "retryDeadLetters")
            .says(
                "Hand dead letters out again",
                "To this group alone, under their ids, counted from 1.",
            )
            .takes("DeadLetterChoice")
            .gives(200, "How many.", "Retried")
            .fails(&[ErrorCode::NotFound, ErrorCode::StorageFull]),
        Operation::new("post", discard, "discardDeadLetters")
            .says("Drop dead letters", "")
            .takes("DeadLetterChoice")
            .gives(200, "How many.", "Discarded")
            .fails(&[ErrorCode::NotFound, ErrorCode::StorageFull]),
    ]
}

fn connections() -> Vec<Operation> {
    let limit = || {
        let schema = json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 1000 });
        query("limit", schema, "At most so many.")
    };
    let after = |what| query("after", json!({ "type": "string" }), what);
    vec![
        Operation::new("get", "/v1/channels/{channel}/presence", "getPresence")
            .says(
                "Who is on a channel",
                "Users in the order of their ids, over all processes on the broker; a process that \
                 was killed counts for up to 10 s more. Needs `presence:read`.",
            )
            .with(vec![after("Users after this id: `next` of a page."), limit()])
            .gives(200, "Who is there.", "Presence"),
        Operation::new("post", "/v1/presence/query", "queryPresence")
            .says(
                "Whether users are connected",
                "Up to 1,000 users at once. Needs `presence:read` of the channel `user:{userId}` \
                 of each.",
            )
            .takes("PresenceQuery")
            .gives(200, "The users in the order of the call.", "UserPresence"),
        Operation::new("get", "/v1/connections", "listConnections")
            .says(
                "The tenant's live connections",
                "On all processes on the broker, in the order of their ids. Needs \
                 `connections:manage`.",
            )
            .with(vec![after("Connections after this id: `next` of a page."), limit()])
            .gives(200, "The connections.", "Connections"),
        Operation::new("delete", "/v1/connections/{id}", "endConnection")
            .says(
                "End a live connection",
                "It is closed with 4013, on whichever process it is. Needs `connections:manage`.",
            )
            .gives(204, "It was told to end.", "")
            .fails(&[ErrorCode::NotFound]),
    ]
}

fn live() -> Vec<Operation> {
    let token =
        || query("token", json!({ "type": "string" }), "The credential, where no header can be.");
    let ticket = || query("ticket", json!({ "type": "string" }), "A ticket, in place of a token.");
    let mut tickets = Operation::new("post", "/v1/tickets", "createTicket")
        .says(
            "A ticket for a live connection",
            "For a client that can send no header: `?ticket=` of a WebSocket or of Server-Sent \
             Events takes it once, within 30 s, on any server of the same broker. It stands for \
             its maker (of a service credential: for the tenant and user that the call names), or \
             for what that one may do on `channels` alone. The connection ends with the credential \
             of the maker. The body may be left out.",
        )
        .takes("NewTicket")
        .gives(201, "The ticket.", "Ticket")
        .fails(&[ErrorCode::StorageFull, ErrorCode::DurabilityUnmet]);
    tickets.body_may_be_left_out = true;
    let mut sse = Operation::new("get", "/v1/channels/{channel}/sse", "subscribe")
        .says(
            "Follow a channel by Server-Sent Events",
            "`event: realtime_update` with the message as data, and `missed` where something is \
             missing. Each `id` is an opaque cursor; given back as `Last-Event-ID` it brings what \
             was missed since.",
        )
        .with(vec![
            header("Last-Event-ID", json!({ "type": "string" }), "The last `id` seen."),
            query("since", json!({ "type": "string" }), "A message id or position to go on from."),
            token(),
            ticket(),
        ])
        .gives(200, "The events.", "")
        .fails(&[ErrorCode::SinceAmbiguous, ErrorCode::Limit, ErrorCode::ShuttingDown]);
    sse.answers =
        vec![Body { media_type: "text/event-stream", schema: json!({ "type": "string" }) }];
    vec![
        Operation::new("post", "/v1/channels/{channel}/messages", "publish")
            .says("Publish a message", "To everyone subscribed now; nothing is stored.")
            .takes("NewMessage")
            .gives(200, "Broker subscriptions reached: processes, not clients.", "Published")
            .fails(&[ErrorCode::ReservedName]),
        sse,
        tickets,
        Operation::new("get", "/v1/ws", "connect")
            .says(
                "A live connection by WebSocket",
                "Frames are `{\"event\",\"data\",\"id\"?}`. The credential stands in the header, in \
                 `?token=` or `?ticket=`, or in a subprotocol `bearer.TOKEN` beside `apix.v1`. \
                 `renew` with a new `token` of the same tenant and user lets the connection live \
                 on. A service credential names a tenant per channel by `organizationId`. Where \
                 origins are listed in the configuration, pages of others are refused. Close \
                 codes: 4002 the token has ended, 4008 too slow, 4009 limit, 4010 \
                 draining, 4013 ended by an operator.",
            )
            .with(vec![token(), ticket()])
            .gives(101, "The connection is a WebSocket from here on.", "")
            .fails(&[ErrorCode::Limit, ErrorCode::ShuttingDown]),
        Operation::new("post", "/v1/hybrid-events", "publishHybrid")
            .says(
                "Publish a hybrid event",
                "Persisted first, then shown live. Persisted but not shown, or a repeated \
                 idempotency key: `201` without `subscriberCount`.",
            )
            .with(vec![header(
                "Idempotency-Key",
                json!({ "type": "string", "maxLength": 256 }),
                "In place of `idempotencyKey`.",
            )])
            .takes("HybridEvent")
            .gives(201, "What became of it.", "HybridReceipt")
            .fails(&WRITES),
    ]
}

fn operations() -> Vec<Operation> {
    let mut docs = Operation::new("get", "/docs", "docs").says("A page for people", "");
    docs.answers = vec![Body { media_type: "text/html", schema: json!({ "type": "string" }) }];
    vec![
        Operation::new("get", "/healthz", "healthz")
            .says("Whether the process lives", "")
            .gives(200, "It does.", "Health"),
        Operation::new("get", "/readyz", "readyz")
            .says("Whether the broker can serve", "Live messages included.")
            .gives(200, "It can.", "Health")
            .fails(&[ErrorCode::Unavailable, ErrorCode::ShuttingDown]),
        Operation::new("get", "/openapi.json", "openapi").says("This document", "").gives(
            200,
            "The document.",
            "Document",
        ),
        docs,
    ]
}
