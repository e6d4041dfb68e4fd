//! Dead letters: events that were given up, each with a full copy and what was tried.

use bytes::Bytes;
use bytestring::ByteString;

use crate::event::StoredEvent;
use crate::json::ObjectWriter;
use crate::position::MessageId;

/// One delivery that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it ended, Unix milliseconds.
    pub at_ms: u64,
    /// Who held it.
    pub consumer: ByteString,
    /// Why it failed: the reason of the rejection, or [`LEASE_EXPIRED`].
    pub reason: ByteString,
}

/// The reason of an attempt that was neither acknowledged nor rejected.
pub const LEASE_EXPIRED: &str = "lease expired: not acknowledged in time";

/// The most attempts that are kept of one event: the latest.
pub const MAX_KEPT_ATTEMPTS: usize = 20;

/// The longest reason that is kept, in bytes; what is longer is cut.
pub const MAX_REASON_BYTES: usize = 1_024;

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadBody {
    /// An event.
    Event(Box<StoredEvent>),
    /// An entry of another service that is no event of ours: its fields as they were.
    Raw(Vec<(Bytes, Bytes)>),
}

/// An event that a group has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's id in its stream.
    pub message_id: MessageId,
    /// Why it was given up.
    pub reason: ByteString,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The last attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// The full copy.
    pub body: DeadBody,
}

impl DeadLetter {
    /// Appends the JSON form to `out`:
    /// `{messageId, reason, at, attempts: [{at, consumer, reason}], event | raw}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        use crate::event::Timestamp;
        let mut object = ObjectWriter::begin(out);
        object.plain("messageId", self.message_id);
        object.text("reason", &self.reason);
        object.text("at", Timestamp::from_unix_ms(self.at_ms).as_str());
        let mut attempts = b"[".to_vec();
        for (index, attempt) in self.attempts.iter().enumerate() {
            if index > 0 {
                attempts.push(b',');
            }
            let mut entry = ObjectWriter::begin(&mut attempts);
            entry.text("at", Timestamp::from_unix_ms(attempt.at_ms).as_str());
            entry.text("consumer", &attempt.consumer);
            entry.text("reason", &attempt.reason);
            entry.end();
        }
        attempts.push(b']');
        object.json("attempts", &String::from_utf8_lossy(&attempts));
        match &self.body {
            DeadBody::Event(event) => {
                let mut body = Vec::with_capacity(event.payload.len() + 256);
                event.write_json(&mut body);
                object.json("event", &String::from_utf8_lossy(&body));
            }
            DeadBody::Raw(fields) => object.json("raw", &raw_json(fields)),
        }
        object.end();
    }
}

/// Field names and values as a JSON object of strings. Bytes that are not UTF-8 are shown as the
/// replacement character; the stored copy keeps them.
fn raw_json(fields: &[(Bytes, Bytes)]) -> String {
    let mut out = Vec::new();
    out.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        crate::json::write_text(&mut out, &String::from_utf8_lossy(name));
        out.push(b':');
        crate::json::write_text(&mut out, &String::from_utf8_lossy(value));
    }
    out.push(b'}');
    String::from_utf8_lossy(&out).into_owned()
}

/// `reason`, cut to [`MAX_REASON_BYTES`] at a character.
pub fn kept_reason(reason: &str) -> ByteString {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}

/// Which dead letters a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterChoice {
    /// These.
    Ids(Vec<MessageId>),
    /// All of the group.
    All,
}
