//! Many requests from many lines, in the order of the lines: `publish --ndjson`, `hybrid --ndjson`.

use anyhow::{Result, anyhow};
use reqwest::{Method, header};
use serde_json::value::RawValue;

use crate::client::Client;
use crate::failure::{Class, Failure, class_of};
use crate::input::{Lines, is_blank};
use crate::progress::Progress;
use crate::terminal::{print_json_line, printable, rate_text};

/// Sends what `body_of` makes of each line to `path`, each after the answer to the one before: a
/// channel shows messages in the order in which they were published.
pub(crate) async fn send_lines(
    client: &Client,
    path: &[&str],
    mut lines: Lines,
    json: bool,
    body_of: impl Fn(Vec<u8>) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut progress = Progress::new(None, "messages");
    let (mut sent, mut refused) = (0, 0);
    let mut outcome = Ok(());
    while let Some((number, line)) = lines.next().await? {
        if is_blank(&line) {
            continue;
        }
        let answer = match body_of(line) {
            Ok(body) => send(client, path, body).await,
            Err(fault) => Err(Failure::refused(format!("{fault:#}"))),
        };
        match answer {
            Ok(answer) => {
                sent += 1;
                if json {
                    print_json_line(answer.get())?;
                }
            }
            Err(fault) if class_of(&fault) == Class::Refused => {
                refused += 1;
                progress.note(&printable(&format!("line {number}: {fault:#}")));
            }
            // Without the server the lines that follow would all fail alike.
            Err(fault) => {
                outcome = Err(anyhow!(fault).context(format!("line {number}")));
                break;
            }
        }
        progress.at(sent + refused);
    }
    let elapsed = progress.finish();
    crate::terminal::say(format_args!(
        "{sent} sent, {refused} lines refused, in {:.1} s ({})",
        elapsed.as_secs_f64(),
        rate_text(sent, elapsed)
    ));
    outcome?;
    if refused > 0 {
        return Err(Failure::refused(format!("{refused} of {} lines", sent + refused)));
    }
    Ok(())
}

async fn send(client: &Client, path: &[&str], body: Vec<u8>) -> Result<Box<RawValue>> {
    let request = client
        .request(Method::POST, path)?
        .header(header::CONTENT_TYPE, "application/json")
        .body(body);
    client.json(request).await
}
