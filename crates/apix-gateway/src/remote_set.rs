//! Fetching a key set from its issuer: at intervals, and when a token names an unknown key.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apix::{Error, Result};
use reqwest::header::CACHE_CONTROL;
use reqwest::{Client, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::credentials::Algorithm;
use crate::jwks::{MAX_JWKS_BYTES, PublishedKey, read_set};

/// How long an issuer may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How old a set may become, and how often one is fetched at most.
const MAX_AGE: Duration = Duration::from_secs(300);
const MIN_AGE: Duration = Duration::from_secs(30);
/// The longest wait after a failure; the first is a second.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// How often tokens with unknown keys may have the set fetched.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

/// A key set at an address.
pub(crate) struct RemoteSet {
    url: Url,
    /// The address without its query, for the log.
    shown: String,
    client: Client,
    algorithms: Vec<Algorithm>,
    /// Whether the set is being fetched, or about to be.
    busy: watch::Sender<bool>,
    wake: Notify,
    asked: Mutex<Option<Instant>>,
}

impl RemoteSet {
    pub(crate) fn new(
        what: &str,
        url: &str,
        ca: Option<&Path>,
        algorithms: &[Algorithm],
    ) -> Result<Self> {
        let url = check_url(url).map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
        let client =
            client(&url, ca).map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        Ok(Self {
            url,
            shown,
            client,
            algorithms: algorithms.to_vec(),
            // The first fetch is the first thing that `keep_fresh` does.
            busy: watch::Sender::new(true),
            wake: Notify::new(),
            asked: Mutex::new(None),
        })
    }

    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Fetches the set again and again, and hands over what is new. A set that cannot be had
    /// changes nothing.
    pub(crate) async fn keep_fresh(&self, take: impl Fn(Vec<PublishedKey>)) {
        let mut failures = 0;
        loop {
            self.busy.send_replace(true);
            let wait = match self.fetch().await {
                Ok((keys, max_age)) => {
                    tracing::debug!(url = self.shown, keys = keys.len(), "key set fetched");
                    take(keys);
                    failures = 0;
                    next_fetch(max_age)
                }
                Err(fault) => {
                    failures += 1;
                    tracing::warn!(url = self.shown, fault, failures, "cannot fetch the key set");
                    retry_after(failures)
                }
            };
            self.busy.send_replace(false);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Has the set fetched, if that was not done for another token within the last minute, and
    /// waits for a fetch that is under way.
    pub(crate) async fn ask(&self) {
        let mut busy = self.busy.subscribe();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let may_ask = asked.is_none_or(|at| at.elapsed() >= ASK_INTERVAL);
            if may_ask && !*busy.borrow_and_update() {
                *asked = Some(Instant::now());
                self.busy.send_replace(true);
                self.wake.notify_one();
            }
        }
        // The fetch belongs to no caller: one that goes away does not end it.
        let _ = timeout(FETCH_TIMEOUT, busy.wait_for(|busy| !busy)).await;
    }

    async fn fetch(&self) -> Result<(Vec<PublishedKey>, Option<Duration>), String> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(explain)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the issuer answered {}", answer.status()));
        }
        let max_age = max_age(&answer);
        let document = read_bounded(answer).await?;
        Ok((read_set(&document, &self.algorithms)?, max_age))
    }
}

/// The chain of causes: reqwest's own text says little.
fn explain(fault: reqwest::Error) -> String {
    let fault = fault.without_url();
    let mut text = fault.to_string();
    let mut cause = std::error::Error::source(&fault);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

async fn read_bounded(mut answer: Response) -> Result<Vec<u8>, String> {
    let mut document = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(explain)? {
        if document.len() + piece.len() > MAX_JWKS_BYTES {
            return Err(format!("the key set has more than {MAX_JWKS_BYTES} bytes"));
        }
        document.extend_from_slice(&piece);
    }
    Ok(document)
}

fn max_age(answer: &Response) -> Option<Duration> {
    let directives = answer.headers().get(CACHE_CONTROL)?.to_str().ok()?;
    directives
        .split(',')
        .find_map(|directive| directive.trim().strip_prefix("max-age=")?.parse().ok())
        .map(Duration::from_secs)
}

/// A little before the set is out of date.
fn next_fetch(max_age: Option<Duration>) -> Duration {
    max_age.map_or(MAX_AGE, |age| (age / 10).saturating_mul(9).clamp(MIN_AGE, MAX_AGE))
}

fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(1 << (failures - 1).min(6)).min(MAX_RETRY)
}

/// Keys that come over a network in plain could be anybody's.
fn check_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|fault| format!("{text:?} is no address: {fault}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address of a key set has no user or password".to_owned());
    }
    let host = url.host_str().unwrap_or("");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback =
        host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(format!("{text:?}: a key set is fetched by https, or by http from this machine")),
    }
}

fn client(url: &Url, ca: Option<&Path>) -> Result<Client, String> {
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls(ca)?)
        .timeout(FETCH_TIMEOUT)
        .user_agent(concat!("apix/", env!("CARGO_PKG_VERSION")))
        // The address that was checked is the one that is asked.
        .redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        client = client.no_proxy();
    }
    client.build().map_err(explain)
}

/// On ring, whatever the process has installed, if anything.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let wrong = |fault: &dyn std::fmt::Display| {
            format!("no certificate in {}: {fault}", path.display())
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|fault| wrong(&fault))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|fault| wrong(&fault))?;
            roots.add(certificate).map_err(|fault| wrong(&fault))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| fault.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_fetched_by_https_or_from_this_machine() {
        for right in [
            "https://id.example.com/jwks.json",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/jwks",
            "http://[::1]:1/",
        ] {
            assert!(check_url(right).is_ok(), "{right}");
        }
        for wrong in [
            "http://id.example.com/jwks.json",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "https://anna:hush@id.example.com/",
            "file:///etc/jwks.json",
            "jwks.json",
        ] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_provider_of_the_process_is_needed() {
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
        for url in ["https://id.example.com/", "http://localhost/"] {
            assert!(RemoteSet::new("x", url, None, &[]).is_ok(), "{url}");
        }
    }

    #[test]
    fn sets_are_fetched_before_they_are_old_and_not_all_the_time() {
        let wait = |seconds| next_fetch(Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!(next_fetch(None), MAX_AGE);
        assert_eq!((wait(0), wait(100), wait(86_400), wait(u64::MAX)), (30, 90, 300, 300));
        let waits: Vec<_> = (1..=8).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retry_after(u32::MAX), MAX_RETRY);
    }
}
