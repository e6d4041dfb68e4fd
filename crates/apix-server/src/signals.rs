//! Being told to stop.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Turns true at the first SIGINT or SIGTERM. A second one ends the process at once.
pub(crate) fn shutdown() -> Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let (sender, asked) = watch::channel(false);
    tokio::spawn(async move {
        for second in [false, true] {
            // The number that a shell gives to a program that the signal ended.
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if second {
                std::process::exit(code);
            }
            sender.send_replace(true);
        }
    });
    Ok(asked)
}

/// Completes when it was asked for.
pub(crate) async fn asked(mut shutdown: watch::Receiver<bool>) {
    // The sending task lives until the process ends; without it there is nothing to wait for.
    if shutdown.wait_for(|asked| *asked).await.is_err() {
        std::future::pending().await
    }
}
