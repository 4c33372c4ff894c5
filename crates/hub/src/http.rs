//! Requests to a hub. Redirects are followed here, and not by the HTTP crate, because of two rules: the token goes to the
//! hub's own address and nowhere else, and what a redirect says of a file counts (the hub describes a file in the answer
//! that leads to where its contents are).

use std::io;
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::attempts::{Attempts, Failure};
use crate::settings::Patience;
use crate::{HubError, Result, Settings};

/// Redirects from a file's address to its contents; the hub needs two.
const MAX_REDIRECTS: usize = 10;

/// Characters of what a hub says about an error.
const MAX_MESSAGE_CHARS: usize = 300;

/// The hub, as seen from here.
pub(crate) struct Client {
    agent: Agent,
    endpoint: Endpoint,
    token: Option<String>,
    patience: Patience,
}

/// Where the hub is.
struct Endpoint {
    address: String,
    origin: Origin,
}

/// Who answers: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// An answer, and who gave it.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) host: String,
}

impl Client {
    /// Prepares requests; makes none.
    pub(crate) fn new(settings: &Settings) -> Result<Client> {
        let address = settings.endpoint.trim_end_matches('/').to_owned();
        let origin = address.parse::<Uri>().ok().filter(|uri| uri.query().is_none()).and_then(|uri| Origin::of(&uri));
        let origin = origin.ok_or_else(|| HubError::Endpoint { endpoint: settings.endpoint.clone() })?;
        let token = settings.token.clone();
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Token);
        }
        let patience = settings.patience.clone();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("bouquet/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the file itself.
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_send_request(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence));
        #[cfg(feature = "tls")]
        let config = match &settings.certificates {
            Some(path) => config.tls_config(trusted(path)?),
            None => config,
        };
        let config = config.build();
        Ok(Client { agent: config.into(), endpoint: Endpoint { address, origin }, token, patience })
    }

    /// The name of the hub's machine.
    pub(crate) fn host(&self) -> String {
        self.endpoint.origin.to_string()
    }

    /// Whether the hub knows who asks.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Time for the next byte of an answer.
    pub(crate) fn silence(&self) -> Duration {
        self.patience.silence
    }

    /// As many attempts as a user has patience for.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.patience.retries, self.patience.first_wait)
    }

    /// Asks for `path` of the hub and follows its redirects until `enough` is true of an answer, or an answer is none.
    /// With `from`, for what begins at that byte.
    pub(crate) fn ask(
        &self,
        method: Method,
        path: &str,
        from: u64,
        enough: impl Fn(&HeaderMap) -> bool,
    ) -> std::result::Result<Answer, Failure> {
        let first = format!("{}{path}", self.endpoint.address);
        let mut uri: Uri = first.parse().map_err(|_| self.endpoint.wrong(path, "its address cannot be written"))?;
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&uri).ok_or_else(|| self.endpoint.wrong(path, "a redirect leads to no host"))?;
            let host = origin.to_string();
            let mut request = Request::builder().method(method.clone()).uri(uri.clone());
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin == self.endpoint.origin) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| self.endpoint.wrong(path, error.to_string()))?;
            let response = self.agent.run(request).map_err(|error| unreachable(&host, &error))?;
            let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location.filter(|_| !enough(response.headers())) else {
                return Ok(Answer { response, host });
            };
            let next = location.to_str().ok().and_then(|location| joined(&uri, location));
            uri = next.ok_or_else(|| self.endpoint.wrong(path, "a redirect leads to no address of the web"))?;
            if origin.scheme == "https" && uri.scheme_str() != Some("https") {
                return Err(self.endpoint.wrong(path, "a redirect leads from https to plain http").into());
            }
        }
        Err(self.endpoint.wrong(path, format!("there are more than {MAX_REDIRECTS} redirects")).into())
    }
}

impl Answer {
    /// A header, where it is a text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// A status that another attempt may change; everything else is for the caller to judge.
    pub(crate) fn check_passing(&self) -> std::result::Result<(), Failure> {
        let status = self.response.status();
        let passing = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT;
        if !passing {
            return Ok(());
        }
        let wait = self.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Err(Failure { error: self.status(), passing: true, wait })
    }

    /// The error of a status that nothing more is known about.
    pub(crate) fn status(&self) -> HubError {
        HubError::Status { host: self.host.clone(), status: self.response.status().as_u16(), message: self.message() }
    }

    /// What the hub says about an error, in a sentence or two.
    pub(crate) fn message(&self) -> String {
        self.header("x-error-message").unwrap_or_default().chars().take(MAX_MESSAGE_CHARS).collect()
    }
}

impl Endpoint {
    fn wrong(&self, what: &str, problem: impl Into<String>) -> HubError {
        HubError::Wrong { host: self.origin.to_string(), what: what.to_owned(), problem: problem.into() }
    }
}

impl Origin {
    /// `None` for what is no address of the web.
    fn of(uri: &Uri) -> Option<Origin> {
        let scheme = uri.scheme_str()?;
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(port);
        (!host.is_empty()).then(|| Origin { scheme: scheme.to_owned(), host, port })
    }
}

/// The host, with its port where that is not the usual one.
impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) => f.write_str(&self.host),
            (_, port) => write!(f, "{}:{port}", self.host),
        }
    }
}

/// Where a redirect leads, which may be said in full or from the address it is at.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if location.contains("://") && !location.starts_with('/') {
        location.parse().ok()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}").parse().ok()
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}").parse().ok()
    } else {
        None
    }
}

/// The certificates of a file.
#[cfg(feature = "tls")]
fn trusted(path: &std::path::Path) -> Result<ureq::tls::TlsConfig> {
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
    let pem = std::fs::read(path).map_err(|source| HubError::Read { path: path.to_owned(), source })?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Damaged { path: path.to_owned(), problem: "it has no certificate in PEM".to_owned() });
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

/// What the HTTP crate says. All but certificates may pass.
fn unreachable(host: &str, error: &ureq::Error) -> Failure {
    use ureq::Error::{InvalidProxyUrl, Io, TlsRequired};
    match error {
        // As rustls packs it.
        Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            HubError::Certificate { host: host.to_owned(), problem: error.to_string() }.into()
        }
        _ => {
            let passing = !matches!(error, TlsRequired | InvalidProxyUrl);
            Failure { passing, ..Failure::passing(host, problem(error)) }
        }
    }
}

/// What went wrong while a body was read; the HTTP crate packs its own errors into those of the system.
pub(crate) fn reading_problem(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(error) => problem(error),
        None => system_problem(error),
    }
}

fn problem(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => system_problem(error),
        ureq::Error::Timeout(_) => "nothing came in time".to_owned(),
        ureq::Error::TlsRequired => "it wants https, which this program was built without".to_owned(),
        ureq::Error::HostNotFound => "there is no such host, or no network".to_owned(),
        other => other.to_string(),
    }
}

fn system_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "nothing came in time".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_from_where_they_are() {
        let base: Uri = "https://hub.example:8443/a/b?c".parse().unwrap();
        for (location, expected) in [
            ("/d/e?f=g", Some("https://hub.example:8443/d/e?f=g")),
            ("//cdn.example/d", Some("https://cdn.example/d")),
            ("http://cdn.example/d", Some("http://cdn.example/d")),
            ("d", None),
            ("", None),
        ] {
            assert_eq!(joined(&base, location).map(|uri| uri.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text: &str| text.parse().ok().as_ref().and_then(Origin::of);
        assert_eq!(of("https://Hub.example/a"), of("https://hub.example:443/b"));
        for other in
            ["http://hub.example", "https://hub.example:444", "https://hub.example.evil", "https://a@hub.example"]
        {
            assert_ne!(of("https://hub.example"), of(other), "{other}");
        }
        assert_eq!(of("ftp://hub.example"), None);
        assert_eq!(of("https://hub.example").unwrap().to_string(), "hub.example");
        assert_eq!(of("http://127.0.0.1:5000").unwrap().to_string(), "127.0.0.1:5000");
    }

    #[test]
    fn addresses_and_tokens_are_checked_before_they_are_used() {
        let settings = |endpoint: &str, token: &str| Settings {
            endpoint: endpoint.to_owned(),
            token: Some(token.to_owned()),
            ..Settings::new("/nowhere")
        };
        assert!(Client::new(&settings("https://hub.example/mirror/", "hf_x")).is_ok());
        for endpoint in
            ["", "hub.example", "ftp://hub.example", "https://hub.example/?a", "file:///etc", "https://u:p@hub.example"]
        {
            assert!(matches!(Client::new(&settings(endpoint, "x")), Err(HubError::Endpoint { .. })), "{endpoint}");
        }
        for token in ["a b", "a\nb", "ä"] {
            assert!(matches!(Client::new(&settings("https://hub.example", token)), Err(HubError::Token)), "{token:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_file_of_certificates_has_some() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings =
            |path: &std::path::Path| Settings { certificates: Some(path.into()), ..Settings::new("/nowhere") };
        assert!(matches!(Client::new(&settings(file.path())), Err(HubError::Damaged { .. })));
        assert!(matches!(Client::new(&settings("/nowhere/c.pem".as_ref())), Err(HubError::Read { .. })));
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(file.path(), pem).unwrap();
        assert!(Client::new(&settings(file.path())).is_ok());
    }
}
