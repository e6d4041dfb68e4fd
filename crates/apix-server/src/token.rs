//! `apix token`: credentials made on this machine, without a server.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use apix::{Permissions, TenantContext, TenantId};
use clap::{Args, Subcommand};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::config::parse_duration;
use crate::failure::Failure;
use crate::terminal::{print_json, print_line};

/// What the server asks of an HS256 secret.
const MIN_SECRET_BYTES: usize = 32;

/// Make a JSON Web Token, or an API key
#[derive(Args, Debug)]
#[command(
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  APIX_JWT_SECRET=… apix token --org acme --user anna --permissions 'channels:subscribe:*' --ttl 1h
  apix token --secret-file jwt.key --org acme --permissions admin
  apix token new-key --org acme --permissions 'streams:write:*'"
)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    #[command(flatten)]
    jwt: JwtArgs,
}

#[derive(Subcommand, Debug)]
enum TokenCommand {
    /// Make a random API key, and the entry for apix.toml that lets it in
    NewKey(KeyArgs),
}

#[derive(Args, Debug)]
struct JwtArgs {
    /// Secret that signs it (HS256, at least 32 bytes); better given as APIX_JWT_SECRET
    #[arg(long, env = "APIX_JWT_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// File that holds the secret
    #[arg(long, env = "APIX_JWT_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Name of the key, where the server has several
    #[arg(long)]
    kid: Option<String>,
    /// The tenant
    #[arg(long, value_name = "TENANT", required = true)]
    org: Option<String>,
    /// The user
    #[arg(long, value_name = "USER_ID")]
    user: Option<String>,
    /// What it allows, with commas between: streams:read:*, channels:subscribe:room-*, admin
    #[arg(long, value_delimiter = ',', value_name = "PERMISSIONS")]
    permissions: Vec<String>,
    /// How long it is valid, such as 15m, 12h or 30d
    #[arg(long, value_parser = parse_ttl, default_value = "1h", value_name = "TIME")]
    ttl: Duration,
    /// Print the token with its claims as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct KeyArgs {
    /// The tenant of the entry
    #[arg(long, value_name = "TENANT", default_value = "TENANT")]
    org: String,
    /// What it allows, with commas between
    #[arg(long, value_delimiter = ',', default_value = "admin", value_name = "PERMISSIONS")]
    permissions: Vec<String>,
    /// What the logs call it
    #[arg(long, default_value = "my-service")]
    name: String,
    /// Print {"key", "sha256"} as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claims<'a> {
    organization_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    permissions: &'a [String],
    iat: u64,
    exp: u64,
}

pub(crate) fn run(args: Token) -> Result<()> {
    match args.command {
        None => print_jwt(&args.jwt),
        Some(TokenCommand::NewKey(key)) => print_new_key(&key),
    }
}

fn print_jwt(args: &JwtArgs) -> Result<()> {
    let org = args.org.as_deref().unwrap_or_default();
    check_claims(org, args)?;
    let secret = secret(args)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let claims = Claims {
        organization_id: org,
        sub: args.user.as_deref(),
        permissions: &args.permissions,
        iat: now.as_secs(),
        exp: (now + args.ttl).as_secs(),
    };
    let header = Header { kid: args.kid.clone(), ..Header::default() };
    let token = encode(&header, &claims, &EncodingKey::from_secret(&secret))
        .context("the token cannot be signed")?;
    if args.json {
        print_json(&serde_json::json!({"token": token, "claims": claims}))?;
    } else {
        print_line(&token)?;
    }
    Ok(())
}

/// What the server would refuse is refused here, where it can be mended.
fn check_claims(org: &str, args: &JwtArgs) -> Result<()> {
    let wrong = |fault: apix::Error| Failure::usage(fault.to_string());
    let permissions = Permissions::parse(&args.permissions).map_err(wrong)?;
    let user = args.user.as_deref().map(Into::into);
    TenantId::new(org)
        .and_then(|tenant| TenantContext::authenticated(tenant, user, permissions.into()))
        .map_err(wrong)?;
    if args.permissions.is_empty() {
        crate::terminal::say(format_args!("note: without --permissions the token allows nothing"));
    }
    Ok(())
}

fn secret(args: &JwtArgs) -> Result<Vec<u8>> {
    let secret = match (&args.secret, &args.secret_file) {
        (Some(secret), _) => secret.clone().into_bytes(),
        (None, Some(path)) => read_secret(path)?,
        (None, None) => {
            return Err(Failure::usage(
                "no secret; give the server's one by APIX_JWT_SECRET, --secret-file or --secret",
            ));
        }
    };
    if secret.len() < MIN_SECRET_BYTES {
        return Err(Failure::usage(format!(
            "the secret has {} bytes; HS256 needs at least {MIN_SECRET_BYTES}",
            secret.len()
        )));
    }
    Ok(secret)
}

fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let mut secret = std::fs::read(path)
        .map_err(|fault| Failure::usage(format!("cannot read {}: {fault}", path.display())))?;
    // The server leaves out a line break at the end too.
    secret.truncate(secret.trim_ascii_end().len());
    Ok(secret)
}

fn print_new_key(args: &KeyArgs) -> Result<()> {
    Permissions::parse(&args.permissions).map_err(|fault| Failure::usage(fault.to_string()))?;
    let key = random_secret("apix")?;
    let digest = hex(&Sha256::digest(&key));
    if args.json {
        print_json(&serde_json::json!({"key": key, "sha256": digest}))?;
        return Ok(());
    }
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let permissions: Vec<String> = args.permissions.iter().map(|one| text(one)).collect();
    print_line(&format!(
        "{key}\n\n# for apix.toml, which then holds no secret:\n[[auth.api_keys]]\nname = {}\n\
         key = {{ sha256 = \"{digest}\" }}\norganization_id = {}\npermissions = [{}]",
        text(&args.name),
        text(&args.org),
        permissions.join(", ")
    ))?;
    Ok(())
}

/// A secret of 128 random bits behind a prefix that says what it is.
pub(crate) fn random_secret(prefix: &str) -> Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|fault| anyhow::anyhow!("no randomness: {fault}"))?;
    Ok(format!("{prefix}_{}", hex(&bits)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as 15m, 12h or 30d");
    let scaled = |number: &str, seconds: u64| {
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
    };
    match (text.strip_suffix('h'), text.strip_suffix('d')) {
        (Some(hours), _) => scaled(hours, 3_600),
        (_, Some(days)) => scaled(days, 86_400),
        _ => parse_duration(text).map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(parse_ttl("30d"), Ok(Duration::from_secs(2_592_000)));
        for wrong in ["", "h", "5", "1.5h", "-1d", "99999999999999999d"] {
            assert!(parse_ttl(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_random_and_name_themselves() {
        let (one, other) = (random_secret("dev").unwrap(), random_secret("dev").unwrap());
        assert!(one.starts_with("dev_") && one.len() == 36);
        assert_ne!(one, other);
    }
}
