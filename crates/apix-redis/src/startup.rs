//! What the server must be and be set to, before anything is stored in it.

use std::collections::HashMap;

use apix::{BrokerInfo, Durability, Error, ErrorKind, Result};

use crate::connect::Connection;
use crate::error::malformed;
use crate::keys;
use crate::resp::{Raw, Reply};
use crate::wire::Pipeline;

/// The form of the data that this version writes.
const FORMAT: u32 = 1;
/// How often `appendfsync everysec` flushes.
const EVERYSEC_MS: u64 = 1_000;

/// The settings that matter, by name; none if the server does not tell.
type Config = Option<HashMap<String, String>>;

/// What is asked to find out what the server is, and how it is set.
pub(crate) fn questions() -> Pipeline {
    let mut pipeline = Pipeline::of(&["INFO"]);
    let settings = ["maxmemory-policy", "append*", "no-appendfsync-on-rewrite"];
    pipeline.push(&[&["CONFIG", "GET"], &settings[..]].concat());
    pipeline
}

/// What the answers say; an error if the server cannot keep what APIX promises.
pub(crate) fn judge(replies: &[Raw], durability: Durability) -> Result<BrokerInfo> {
    let [info, config] = replies else { return Err(malformed("two replies")) };
    let info = read_info(info)?;
    let config = read_config(config);
    let mut warnings = Vec::new();
    let name = check_version(&info)?;
    check_role(&info)?;
    check_eviction(&info, config.as_ref(), &mut warnings)?;
    let durability = check_durability(&info, config.as_ref(), durability, &mut warnings)?;
    Ok(BrokerInfo { name, durability, warnings })
}

/// Checks the server, marks it with the form of the data, and says what it is.
pub(crate) async fn check(
    connection: &mut Connection,
    durability: Durability,
    timeout: std::time::Duration,
) -> Result<BrokerInfo> {
    let mut pipeline = questions();
    // First, as nothing can be set while memory is full.
    pipeline.push(&["GET", keys::FORMAT]);
    pipeline.push(&["SET", keys::FORMAT, &FORMAT.to_string(), "NX"]);
    let replies = connection.call(pipeline, timeout).await?;
    let [answers @ .., format, marked] = &replies[..] else { return Err(malformed("replies")) };
    let mut info = judge(answers, durability)?;
    check_format(format, marked, &mut info.warnings)?;
    Ok(info)
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

fn read_info(raw: &Raw) -> Result<HashMap<String, String>> {
    let reply = raw.reply()?;
    let text = reply.utf8().ok_or_else(|| malformed("INFO"))?;
    let pair = |line: &str| {
        let (name, value) = line.trim_end().split_once(':')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn read_config(raw: &Raw) -> Config {
    let reply = raw.reply().ok()?;
    let pair = |pair: &[Reply]| Some((pair[0].utf8()?.to_owned(), pair[1].utf8()?.to_owned()));
    Some(reply.array().chunks_exact(2).filter_map(pair).collect())
}

/// The server's name and version, if it is new enough.
fn check_version(info: &HashMap<String, String>) -> Result<String> {
    let (server, version, floor) = match info.get("valkey_version") {
        Some(version) => ("valkey", version, 8),
        None => ("redis", info.get("redis_version").ok_or_else(|| malformed("INFO"))?, 7),
    };
    let major: u32 =
        version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    if major < floor {
        return Err(unsupported(format!(
            "this is {server} {version}; APIX needs Redis 7.0 or Valkey 8.0 or newer"
        )));
    }
    Ok(format!("{server} {version}"))
}

/// Fails unless the server says, in INFO, that it is a primary.
pub(crate) fn check_is_primary(replies: &[Raw]) -> Result<()> {
    let [info] = replies else { return Err(malformed("a reply")) };
    check_role(&read_info(info)?).map_err(|fault| Error::unavailable(fault.message().to_owned()))
}

fn check_role(info: &HashMap<String, String>) -> Result<()> {
    if info.get("redis_mode").is_some_and(|mode| mode == "cluster") {
        return Err(unsupported(
            "this server runs in cluster mode, which redis:// does not serve".to_owned(),
        ));
    }
    if info.get("role").is_some_and(|role| role != "master") {
        return Err(unsupported(
            "this server is a read-only replica; connect to its primary".to_owned(),
        ));
    }
    Ok(())
}

fn check_eviction(
    info: &HashMap<String, String>,
    config: Option<&HashMap<String, String>>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let policy = config
        .and_then(|config| config.get("maxmemory-policy"))
        .or_else(|| info.get("maxmemory_policy"));
    match policy.map(String::as_str) {
        Some("noeviction") => Ok(()),
        Some(policy) if policy.starts_with("volatile-") => {
            warnings.push(format!(
                "maxmemory-policy is {policy}: Redis may evict the positions of channels; \
                 noeviction is safer"
            ));
            Ok(())
        }
        Some(policy) => Err(unsupported(format!(
            "maxmemory-policy is {policy}, under which Redis deletes streams when its memory is \
             full; set it to noeviction"
        ))),
        None => {
            warnings
                .push("the server does not tell its maxmemory-policy; it must not evict".into());
            Ok(())
        }
    }
}

/// What the append-only file is set to: off, or when it is flushed (if the server tells).
fn fsync<'a>(
    info: &HashMap<String, String>,
    config: Option<&'a HashMap<String, String>>,
) -> (bool, Option<&'a str>) {
    let on = match config.and_then(|config| config.get("appendonly")) {
        Some(on) => on == "yes",
        None => info.get("aof_enabled").is_some_and(|on| on == "1"),
    };
    (on, config.and_then(|config| config.get("appendfsync")).map(String::as_str))
}

/// The durability that is given.
fn check_durability(
    info: &HashMap<String, String>,
    config: Option<&HashMap<String, String>>,
    durability: Durability,
    warnings: &mut Vec<String>,
) -> Result<Durability> {
    let (on, flushed) = fsync(info, config);
    let set_to = match (on, flushed) {
        (false, _) => "appendonly no".to_owned(),
        (true, Some(flushed)) => format!("appendonly yes, appendfsync {flushed}"),
        (true, None) => "appendonly yes; it does not tell its appendfsync".to_owned(),
    };
    let refused = |wanted: &str| {
        Err(unsupported(format!(
            "this durability needs {wanted}, but the server is set to {set_to}"
        )))
    };
    let leaves_out = config.and_then(|config| config.get("no-appendfsync-on-rewrite"));
    let leaves_out = leaves_out.is_some_and(|leaves_out| leaves_out == "yes");
    match durability {
        Durability::Memory => {
            if flushed != Some("always") || !on {
                warnings.push(format!("events are as safe as the server is set to: {set_to}"));
            }
        }
        Durability::Disk => match (on, flushed) {
            (true, Some("always")) if leaves_out => {
                return refused("no-appendfsync-on-rewrite no (it is yes)");
            }
            (true, Some("always")) => {}
            _ => return refused("appendonly yes and appendfsync always"),
        },
        Durability::DiskInterval { every_ms } => {
            return interval((on, flushed), leaves_out, every_ms, warnings)
                .map_or_else(|| refused("appendonly yes and appendfsync everysec or always"), Ok);
        }
        Durability::Replicas(_) => {
            return Err(unsupported(
                "durability by replicas is not supported by this version; use disk, disk-interval \
                 or memory"
                    .to_owned(),
            ));
        }
    }
    Ok(durability)
}

/// The interval at which a server that is set so flushes.
fn interval(
    set_to: (bool, Option<&str>),
    leaves_out: bool,
    every_ms: u64,
    warnings: &mut Vec<String>,
) -> Option<Durability> {
    let every_ms = match set_to {
        (true, Some("always")) => every_ms,
        (true, Some("everysec")) => every_ms.max(EVERYSEC_MS),
        (true, None) => {
            warnings.push("the server does not tell its appendfsync; everysec is assumed".into());
            every_ms.max(EVERYSEC_MS)
        }
        _ => return None,
    };
    if leaves_out {
        warnings.push(
            "no-appendfsync-on-rewrite is yes: nothing is flushed while the append-only file is \
             rewritten; no is safer"
                .into(),
        );
    }
    Some(Durability::DiskInterval { every_ms })
}

/// `format` is what was there, `marked` whether this version's could be set where nothing was.
fn check_format(format: &Raw, marked: &Raw, warnings: &mut Vec<String>) -> Result<()> {
    let refused = |raw: &Raw, code: &[u8]| raw.error().is_some_and(|text| text.starts_with(code));
    if refused(format, b"NOPERM") || refused(marked, b"NOPERM") {
        warnings.push(format!(
            "the Redis user may not use the key {}; the format of the data is not checked",
            keys::FORMAT
        ));
        return Ok(());
    }
    let found = format.reply()?;
    match found.count() {
        Some(found) if found <= u64::from(FORMAT) => Ok(()),
        None if found == Reply::Nil && refused(marked, b"OOM") => {
            warnings.push("memory is full; the format of the data is not marked".into());
            Ok(())
        }
        None if found == Reply::Nil => marked.ok(),
        _ => Err(unsupported(format!(
            "the data in this Redis has format {}, and this version of APIX knows formats up to \
             {FORMAT}; use a newer version",
            found.utf8().unwrap_or("unknown")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn versions() {
        let version = |pairs: &[(&str, &str)]| check_version(&map(pairs));
        assert_eq!(version(&[("redis_version", "7.0.15")]).unwrap(), "redis 7.0.15");
        assert!(version(&[("redis_version", "6.2.7")]).is_err());
        let valkey = [("redis_version", "7.2.4"), ("valkey_version", "8.1.0")];
        assert_eq!(version(&valkey).unwrap(), "valkey 8.1.0");
        assert!(version(&[("redis_version", "7.2.4"), ("valkey_version", "7.2.5")]).is_err());
    }

    #[test]
    fn evicting_servers_are_refused() {
        let check =
            |policy| check_eviction(&map(&[("maxmemory_policy", policy)]), None, &mut vec![]);
        assert!(check("noeviction").is_ok() && check("volatile-lru").is_ok());
        assert!(check("allkeys-lru").unwrap_err().message().contains("noeviction"));
    }

    #[test]
    fn a_durability_is_given_or_refused() {
        let check = |append: &str, fsync: &str, durability| {
            let config = map(&[("appendonly", append), ("appendfsync", fsync)]);
            check_durability(&HashMap::new(), Some(&config), durability, &mut vec![])
        };
        let interval = Durability::DiskInterval { every_ms: 1_000 };
        assert!(check("yes", "always", Durability::Disk).is_ok());
        assert!(check("yes", "everysec", Durability::Disk).is_err());
        assert!(check("no", "always", Durability::Disk).is_err());
        assert!(check("yes", "everysec", interval).is_ok());
        assert!(check("yes", "no", interval).is_err());
        let often = Durability::DiskInterval { every_ms: 100 };
        assert_eq!(check("yes", "everysec", often).unwrap(), interval);
        assert_eq!(check("yes", "always", often).unwrap(), often);
        assert!(check("no", "everysec", Durability::Memory).is_ok());
        assert!(check("yes", "always", Durability::Replicas(1)).is_err());
        let untold = map(&[("aof_enabled", "1")]);
        assert!(check_durability(&untold, None, Durability::Disk, &mut vec![]).is_err());
        assert!(check_durability(&untold, None, interval, &mut vec![]).is_ok());
    }
}
