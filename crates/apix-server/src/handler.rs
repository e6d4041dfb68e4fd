//! The command that `consume --exec` runs for each event.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::consume::Delivery;

/// Runs `command` by the shell with the payload on its standard input. What identifies the event
/// is in `APIX_MESSAGE_ID`, `APIX_EVENT_TYPE` and `APIX_DELIVERY_COUNT`. `Some` is why it failed.
pub(crate) async fn handle(command: &str, delivery: &Delivery) -> Result<Option<String>> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("APIX_MESSAGE_ID", &delivery.message_id)
        .env("APIX_EVENT_TYPE", &delivery.event_type)
        .env("APIX_DELIVERY_COUNT", delivery.delivery_count.to_string())
        // The credential is ours, not the handler's.
        .env_remove("APIX_TOKEN")
        .stdin(Stdio::piped())
        // Ctrl-C is for this program: what is being handled may finish.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start sh")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read its input; its exit status alone says whether it is content.
        let _ = stdin.write_all(delivery.payload.get().as_bytes()).await;
        let _ = stdin.write_all(b"\n").await;
    }
    let status = child.wait().await.context("cannot wait for the command")?;
    Ok(if status.success() { None } else { Some(format!("the command ended with {status}")) })
}
