//! `apix serve --dev`: a tenant to try things with, and what to try.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use apix::TenantId;
use apix_gateway::{ApiKey, GatewayConfig, KeySource, Secret};

use crate::config::DEFAULT_LISTEN;
use crate::failure::Failure;
use crate::token::random_secret;

/// The tenant of `--dev`.
const TENANT: &str = "demo";

/// The token of `--dev`: `APIX_DEV_TOKEN`, or a random one.
pub(crate) fn token() -> Result<String> {
    match env::var("APIX_DEV_TOKEN") {
        Ok(token) if token.len() >= 8 && token.bytes().all(|b| b.is_ascii_graphic()) => Ok(token),
        Ok(token) if token.is_empty() => random_secret("dev"),
        Ok(_) => Err(Failure::usage(
            "APIX_DEV_TOKEN must be at least 8 visible ASCII characters without spaces",
        )),
        Err(env::VarError::NotPresent) => random_secret("dev"),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::usage("APIX_DEV_TOKEN is not UTF-8")),
    }
}

/// Lets `token` in with all rights of the tenant `demo`, and browsers only by the names of this
/// machine: a page elsewhere whose name resolves to 127.0.0.1 must not reach the server.
pub(crate) fn configure(gateway: &mut GatewayConfig, token: &str) -> Result<()> {
    gateway.auth.api_keys.push(ApiKey {
        name: "dev".to_owned(),
        key: KeySource::Key(Secret::text(token)),
        organization_id: TenantId::new(TENANT)?,
        user_id: None,
        permissions: vec!["admin".to_owned()],
        operator: false,
    });
    let hosts = ["localhost", "127.0.0.1", "[::1]"];
    gateway.http.allowed_hosts = Some(hosts.map(str::to_owned).to_vec());
    Ok(())
}

/// What to show when the server is ready: each line below a heading can be pasted into another
/// terminal as it is.
pub(crate) fn welcome(url: &str, token: &str) -> Result<String> {
    let apix = command_name()?;
    let mut session = format!("export APIX_TOKEN={}", quoted(token));
    if url != format!("http://{DEFAULT_LISTEN}") {
        session.push_str(&format!(" APIX_URL={}", quoted(url)));
    }
    Ok(format!(
        "
APIX is ready, with a tenant to try it.

  address  {url}
  tenant   {TENANT}
  token    {token}

Paste a line into another terminal.

An event on a stream, then a consumer of its group (stored, acknowledged, replayable):
  {session}; {apix} add orders '{{\"total\":42}}' --type order.created && {apix} consume orders --group billing --max 1

A message on a channel, to everyone who is listening (immediate, not stored):
  {session}; (sleep 1; {apix} publish news '{{\"text\":\"hello\"}}' --type greeting) & {apix} tail news --max 1

A hybrid event, stored first and then shown live; the replay shows that it was kept:
  {session}; (sleep 1; {apix} hybrid '{{\"amount\":5}}' --type payment.completed --stream payments --channel live) & {apix} tail live --max 1 && {apix} replay payments --order desc --limit 1

Ctrl-C stops the server.
"
    ))
}

/// How a user calls this very binary: `apix` if that is what PATH finds, else its full path.
fn command_name() -> Result<String> {
    let this = env::current_exe().context("cannot tell where this program is")?;
    let paths = env::var_os("PATH").unwrap_or_default();
    if first_on_path(env::split_paths(&paths)).is_some_and(|found| is_same(&found, &this)) {
        return Ok("apix".to_owned());
    }
    Ok(quoted(&this.display().to_string()))
}

fn first_on_path(folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.map(|folder| folder.join("apix")).find(|path| path.is_file())
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        assert_eq!(quoted("/usr/bin/apix"), "/usr/bin/apix");
        assert_eq!(quoted("/my files/apix"), "'/my files/apix'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted("http://[::1]:1"), "'http://[::1]:1'");
    }

    #[test]
    fn the_default_address_needs_no_url() {
        let default = welcome("http://127.0.0.1:2749", "secret").unwrap();
        assert!(default.contains("export APIX_TOKEN=secret;") && !default.contains("APIX_URL"));
        let other = welcome("http://127.0.0.1:5", "secret").unwrap();
        assert!(other.contains("export APIX_TOKEN=secret APIX_URL=http://127.0.0.1:5;"));
    }
}
