//! Sends the payloads over HTTP, as any program would.

use anyhow::Context;
use serde::Deserialize;

use crate::payloads::Payload;
use crate::server::Server;

fn event_line(payload: &Payload) -> anyhow::Result<String> {
    let event_type = serde_json::to_string(&payload.event_type)?;
    Ok(format!(r#"{{"eventType":{event_type},"payload":{}}}"#, payload.json))
}

/// Adds all payloads to the stream `github` in one NDJSON request; their ids, in order.
pub(crate) async fn add_as_ndjson(
    server: &Server,
    payloads: &[Payload],
) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Added {
        message_id: String,
    }
    let lines = payloads.iter().map(event_line).collect::<anyhow::Result<Vec<_>>>()?;
    let answer = reqwest::Client::new()
        .post(server.url("/v1/streams/github/events"))
        .header("authorization", server.token())
        .header("content-type", "application/x-ndjson")
        .body(lines.join("\n"))
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    let id = |line: &str| -> anyhow::Result<String> {
        let added: Added = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok(added.message_id)
    };
    answer.lines().map(id).collect()
}

/// Publishes each payload as a hybrid event to the stream `github-live` and the channel `github`;
/// their ids, in order.
pub(crate) async fn publish_hybrid(
    server: &Server,
    payloads: &[Payload],
) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        stream_message_id: String,
        subscriber_count: Option<u64>,
    }
    let client = reqwest::Client::new();
    let options = r#"{"streamName":"github-live","realtimeChannel":"github"}"#;
    let mut ids = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let event = event_line(payload)?;
        let body = format!(r#"{},"options":{options}}}"#, &event[..event.len() - 1]);
        let shown: Shown = client
            .post(server.url("/v1/hybrid-events"))
            .header("authorization", server.token())
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        anyhow::ensure!(
            shown.subscriber_count == Some(1),
            "shown to {:?} subscribers instead of 1",
            shown.subscriber_count
        );
        ids.push(shown.stream_message_id);
    }
    Ok(ids)
}
