//! The one HTTP client of all commands: where the server is, who asks, and what its answers mean.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Class, Failure};
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which server a command talks to, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// Address of the server
    #[arg(
        long,
        env = "APIX_URL",
        default_value = "http://127.0.0.1:2749",
        help_heading = "Server"
    )]
    url: String,
    /// API key or JWT; better given as APIX_TOKEN, which no process list shows
    #[arg(long, env = "APIX_TOKEN", hide_env_values = true, help_heading = "Server")]
    token: Option<String>,
    /// Certificate authority to trust beside those of the system, a PEM file
    #[arg(long, env = "APIX_CA", value_name = "FILE", help_heading = "Server")]
    ca: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(
        long,
        env = "APIX_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3_600),
        help_heading = "Server"
    )]
    timeout: u64,
}

/// A connection pool to one server with one credential. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    tls: ClientConfig,
    answer_within: Duration,
}

impl Client {
    pub(crate) fn new(target: &Target) -> Result<Self> {
        let base = parse_base(&target.url)?;
        let tls = tls::client_config(target.ca.as_deref())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            // The live connection cannot use a proxy either: both go the same way.
            .no_proxy()
            .user_agent(concat!("apix/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the HTTP client")?;
        let answer_within = Duration::from_secs(target.timeout);
        let token = target.token.clone().filter(|token| !token.is_empty());
        Ok(Self { http, base, token, tls, answer_within })
    }

    /// The server's address, as it was given.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn tls(&self) -> &ClientConfig {
        &self.tls
    }

    /// How long a call may take.
    pub(crate) fn answer_within(&self) -> Duration {
        self.answer_within
    }

    /// `path` under the server's address, each part escaped.
    pub(crate) fn address(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.base.clone();
        if let Some(name) = path.iter().find(|name| matches!(**name, "." | "..")) {
            return Err(Failure::usage(format!(
                "the name {name:?} cannot stand in a URL; choose another"
            )));
        }
        url.path_segments_mut()
            .map_err(|()| Failure::usage(format!("{} cannot have a path", self.base())))?
            .pop_if_empty()
            .extend(path);
        Ok(url)
    }

    /// A request with the credential, and without a time limit: for bodies that stream.
    pub(crate) fn streaming(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let request = self.http.request(method, self.address(path)?);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// A request whose answer must be complete within the time limit.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        Ok(self.streaming(method, path)?.timeout(self.answer_within))
    }

    /// Sends it; an answer that is no success is a [`Failure`] of its class.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|fault| self.no_answer(&fault))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T> {
        self.json(self.request(Method::GET, path)?.query(query)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        self.json(self.request(Method::POST, path)?.json(body)).await
    }

    pub(crate) async fn put(&self, path: &[&str], body: &(impl Serialize + ?Sized)) -> Result<()> {
        self.send(self.request(Method::PUT, path)?.json(body)).await.map(drop)
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<()> {
        self.send(self.request(Method::DELETE, path)?).await.map(drop)
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|fault| self.no_answer(&fault))?;
        serde_json::from_slice(&body)
            .with_context(|| format!("{} gave an answer that is not APIX's", self.base()))
    }

    /// What to say when no answer came.
    pub(crate) fn no_answer(&self, fault: &reqwest::Error) -> anyhow::Error {
        let cause = innermost(fault);
        let message = if fault.is_timeout() && !fault.is_connect() {
            format!("no answer from {} within {} s", self.base(), self.answer_within.as_secs())
        } else if fault.is_connect() {
            format!("cannot reach {}: {cause}; is the server running there?", self.base())
        } else {
            format!("the connection to {} broke: {cause}", self.base())
        };
        Failure::unreachable(message)
    }

    async fn refusal(&self, response: Response) -> anyhow::Error {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(|seconds| format!("; try again in {seconds} s"))
            .unwrap_or_default();
        let body = response.bytes().await.unwrap_or_default();
        refusal(status, &body, &retry_after, self)
    }
}

/// The error form of the HTTP API.
#[derive(serde::Deserialize)]
struct ErrorBody {
    error: ErrorPart,
}

/// What went wrong, as the server tells it.
#[derive(serde::Deserialize)]
pub(crate) struct ErrorPart {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The failure that an answer with this status and body is.
pub(crate) fn refusal(
    status: StatusCode,
    body: &[u8],
    retry_after: &str,
    client: &Client,
) -> anyhow::Error {
    let class = class_of_status(status);
    let hint = if status == StatusCode::UNAUTHORIZED && client.token.is_none() {
        "; give a token by APIX_TOKEN or --token"
    } else {
        ""
    };
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error: ErrorPart { code, message } }) => {
            Failure::said(class, &code, &format!("{message}{hint}{retry_after}"))
        }
        Err(_) => Failure::error(
            class,
            format!("{} answered {status}{hint}; is it an APIX server?", client.base()),
        ),
    }
}

fn class_of_status(status: StatusCode) -> Class {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Class::Unreachable
        }
        status if status.is_client_error() => Class::Refused,
        _ => Class::Other,
    }
}

fn parse_base(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|fault| {
        Failure::usage(format!(
            "{text:?} is not a server's address ({fault}); it looks like http://127.0.0.1:2749"
        ))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Failure::usage(format!(
            "{text:?} is not a server's address; it begins with http:// or https://"
        )));
    }
    Ok(url)
}

/// The cause at the bottom: the layers above only say that something failed.
fn innermost(fault: &dyn std::error::Error) -> String {
    let mut cause = fault;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        tls::install_provider();
        let target = Target { url: url.to_owned(), token: None, ca: None, timeout: 1 };
        Client::new(&target).unwrap()
    }

    #[test]
    fn names_are_escaped_into_the_path() {
        let address = |path: &[&str]| client("http://h:1/base/").address(path).unwrap().to_string();
        assert_eq!(address(&["v1", "streams", "a/b?c"]), "http://h:1/base/v1/streams/a%2Fb%3Fc");
        assert_eq!(address(&["v1", "room:1"]), "http://h:1/base/v1/room:1");
        assert!(client("http://h").address(&["v1", ".."]).is_err());
    }

    #[test]
    fn an_address_must_be_one() {
        for wrong in ["", "localhost", "localhost:2749", "ftp://h", "http://"] {
            assert!(parse_base(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn classes_of_answers() {
        assert_eq!(class_of_status(StatusCode::NOT_FOUND), Class::Refused);
        assert_eq!(class_of_status(StatusCode::TOO_MANY_REQUESTS), Class::Refused);
        assert_eq!(class_of_status(StatusCode::SERVICE_UNAVAILABLE), Class::Unreachable);
        assert_eq!(class_of_status(StatusCode::INTERNAL_SERVER_ERROR), Class::Other);
    }
}
