//! Whether everything arrived as it was sent, and how much that was.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::live::Seen;
use crate::payloads::Payload;
use crate::work::Work;

/// What was checked.
pub(crate) struct Summary {
    events: usize,
    bytes: usize,
    by_type: BTreeMap<String, usize>,
    failed_at_first: usize,
    work_took: Duration,
}

/// Compares what was handled and seen with what was sent, byte for byte.
pub(crate) fn check(
    payloads: &[Payload],
    ids: &[String],
    work: &Work,
    shown: &[String],
    seen: &[Seen],
) -> anyhow::Result<Summary> {
    anyhow::ensure!(ids.len() == payloads.len(), "{} ids were returned", ids.len());
    anyhow::ensure!(work.handled.len() == payloads.len(), "{} handled", work.handled.len());
    for (id, payload) in ids.iter().zip(payloads) {
        let handled = work.handled.get(id);
        anyhow::ensure!(handled == Some(&payload.json), "{id} was not handled as it was sent");
    }
    let expected = payloads.len().div_ceil(10);
    let close = work.failed_at_first.abs_diff(expected) <= expected / 2;
    anyhow::ensure!(close, "{} failed at first, not about {expected}", work.failed_at_first);
    anyhow::ensure!(seen.len() == shown.len(), "{} of {} were seen live", seen.len(), shown.len());
    for ((id, payload), live) in shown.iter().zip(payloads).zip(seen) {
        anyhow::ensure!(live.message_id == *id, "{id} was seen out of order");
        anyhow::ensure!(live.event_type == payload.event_type, "{id} was seen with another type");
        anyhow::ensure!(live.json == payload.json, "{id} was not seen as it was sent");
    }
    let mut by_type = BTreeMap::new();
    for payload in payloads {
        *by_type.entry(payload.event_type.clone()).or_default() += 1;
    }
    Ok(Summary {
        events: payloads.len(),
        bytes: payloads.iter().map(|payload| payload.json.len()).sum(),
        by_type,
        failed_at_first: work.failed_at_first,
        work_took: work.took,
    })
}

impl Summary {
    #[allow(clippy::print_stdout)]
    pub(crate) fn print(&self, broker: &str, took: Duration) {
        println!("GitHub's example webhooks through APIX, broker {broker}");
        println!(
            "  added      {} events of {} types, {} KiB",
            self.events,
            self.by_type.len(),
            self.bytes / 1024
        );
        println!(
            "  handled    {} of {}, {} of them at the second try, in {} ms",
            self.events,
            self.events,
            self.failed_at_first,
            self.work_took.as_millis()
        );
        println!("  seen live  {} of {}, in order", self.events, self.events);
        println!("  payloads   byte for byte as they were sent");
        let mut types: Vec<_> = self.by_type.iter().collect();
        types.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let most: Vec<String> =
            types.iter().take(5).map(|(name, count)| format!("{name} {count}")).collect();
        println!("  most       {}", most.join(", "));
        println!("  all of it  {} ms", took.as_millis());
    }
}
