//! `POST /v1/streams/{stream}/events`: adding events, in each form that they come in.

use apix::json::ObjectWriter;
use apix::{Event, MessageId};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use bytestring::ByteString;

use super::body::{Upload, unsupported};
use super::params::InStream;
use super::{answer, cloudevents, ndjson};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::forms::{EventForm, parse, parse_list};
use crate::gateway::Gateway;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is added, in the form of the answer that it gets.
enum Added {
    One(Event),
    Many(Vec<Event>),
}

pub(super) async fn add(
    State(gateway): State<Gateway>,
    caller: Caller,
    InStream(stream): InStream,
    upload: Upload,
) -> Result<Response, ApiError> {
    // The right to write, and reserved names, before a body is read.
    gateway.service().add_events_to_stream(&caller.ctx, stream.as_str(), Vec::new()).await?;
    let media_type = upload.media_type();
    if media_type == "application/x-ndjson" {
        no_header_key(&upload.headers)?;
        return Ok(ndjson::ingest(&gateway, caller, &stream, upload));
    }
    let added = read(&gateway, &caller, &media_type, upload).await?;
    let (service, stream) = (gateway.service(), stream.as_str());
    match added {
        Added::One(event) => {
            let id =
                gateway.within(service.add_event_to_stream(&caller.ctx, stream, event)).await?;
            let mut out = Vec::with_capacity(48);
            write_id(id, &mut out);
            Ok(answer::json(StatusCode::CREATED, out))
        }
        Added::Many(events) => {
            let ids =
                gateway.within(service.add_events_to_stream(&caller.ctx, stream, events)).await?;
            let mut out = answer::list("messageIds", &ids, |id, out| {
                out.extend_from_slice(format!("\"{id}\"").as_bytes());
            });
            out.push(b'}');
            Ok(answer::json(StatusCode::CREATED, out))
        }
    }
}

async fn read(
    gateway: &Gateway,
    caller: &Caller,
    media_type: &str,
    upload: Upload,
) -> Result<Added, ApiError> {
    if media_type == cloudevents::STRUCTURED {
        no_header_key(&upload.headers)?;
        let document = upload.text(gateway).await?;
        return Ok(Added::One(cloudevents::structured(&document)?));
    }
    if media_type == cloudevents::BATCH {
        no_header_key(&upload.headers)?;
        let document = upload.text(gateway).await?;
        return Ok(Added::Many(cloudevents::batch(&document)?));
    }
    if cloudevents::is_binary(&upload.headers) {
        no_header_key(&upload.headers)?;
        let headers = upload.headers.clone();
        let body = upload.bytes(gateway).await?;
        return Ok(Added::One(cloudevents::binary(&headers, body)?));
    }
    if media_type != "application/json" {
        return Err(unsupported(
            media_type,
            "application/json, application/x-ndjson, application/cloudevents+json, \
             application/cloudevents-batch+json, or a CloudEvent in binary form (headers ce-…)",
        ));
    }
    let header_key = header_key(&upload.headers)?;
    let document = upload.text(gateway).await?;
    if document.trim_start().starts_with('[') {
        if header_key.is_some() {
            return Err(one_key_for_many());
        }
        let forms: Vec<EventForm<'_>> = parse_list("the body", &document)?;
        let events = forms.into_iter().enumerate().map(|(index, form)| {
            form.into_event(&document, &caller.ctx).map_err(|fault| ApiError {
                message: format!("event {index} of the batch: {}", fault.message).into(),
                ..fault
            })
        });
        return Ok(Added::Many(events.collect::<Result<_, _>>()?));
    }
    let form: EventForm<'_> = parse("the body", &document)?;
    let event = form.into_event(&document, &caller.ctx)?;
    Ok(Added::One(with_header_key(event, header_key)?))
}

/// The header `Idempotency-Key`.
pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<ByteString>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = ByteString::try_from(value.as_bytes())
        .map_err(|_| ApiError::invalid("the header Idempotency-Key is not UTF-8"))?;
    Ok(Some(key))
}

/// The event with the key of the header, which must not contradict its own.
pub(super) fn with_header_key(
    mut event: Event,
    header: Option<ByteString>,
) -> Result<Event, ApiError> {
    if let Some(header) = header {
        if event.idempotency_key.as_ref().is_some_and(|own| *own != header) {
            return Err(ApiError::invalid(
                "the header Idempotency-Key and the field idempotencyKey differ; give one of them",
            ));
        }
        event.idempotency_key = Some(header);
    }
    Ok(event)
}

fn no_header_key(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(IDEMPOTENCY_KEY) {
        None => Ok(()),
        Some(_) => Err(one_key_for_many()),
    }
}

fn one_key_for_many() -> ApiError {
    ApiError::invalid(
        "the header Idempotency-Key goes with a single JSON event; in a batch each event has its \
         own idempotencyKey, and a CloudEvent has its source and id",
    )
}

/// Appends `{"messageId":"…"}`.
pub(super) fn write_id(id: MessageId, out: &mut Vec<u8>) {
    let mut object = ObjectWriter::begin(out);
    object.plain("messageId", id);
    object.end();
}
