//! The payloads, as text that is sent as it is.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::value::RawValue;

/// One webhook: its event's name, and the JSON text on one line.
pub(crate) struct Payload {
    pub(crate) event_type: String,
    pub(crate) json: String,
}

#[derive(Deserialize)]
struct Webhook<'a> {
    name: String,
    #[serde(borrow)]
    examples: Vec<&'a RawValue>,
}

/// Reads every example of every webhook.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Payload>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("no payloads at {}: run `npm ci` in examples/github-events first", path.display())
    })?;
    let webhooks: Vec<Webhook<'_>> =
        serde_json::from_str(&text).context("the payloads are no list of webhooks")?;
    let mut payloads = Vec::new();
    for webhook in webhooks {
        for example in webhook.examples {
            // A line break in JSON text can stand between tokens only, where it means nothing.
            let json = example.get().replace(['\n', '\r'], "");
            payloads.push(Payload { event_type: webhook.name.clone(), json });
        }
    }
    anyhow::ensure!(!payloads.is_empty(), "there are no payloads in {}", path.display());
    Ok(payloads)
}
