//! Target URLs and credentials.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use hyper::{HeaderMap, Method, Request, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};

use butlr_event::EventType;

/// Body of a request.
pub(super) type RequestBody = Full<bytes::Bytes>;

/// Placeholder in a URL for the lower-case name of the type, for one URL per type as in Butlr's
/// subscriptions.
pub const TYPE_PLACEHOLDER: &str = "{type}";

/// Headers that the sender sets itself or that would change the framing of a request.
const RESERVED_HEADERS: [HeaderName; 9] = [
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    EXPECT,
    TE,
    TRAILER,
];

/// Credentials of the sender. The value is marked as sensitive and never shown.
#[derive(Clone, Debug)]
pub struct SenderCredentials {
    name: HeaderName,
    value: HeaderValue,
}

impl SenderCredentials {
    /// An API key in a custom header.
    ///
    /// # Errors
    /// A message that does not contain the key.
    pub fn api_key(name: &str, key: &SecretString) -> Result<Self, String> {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not a header name"))?;
        if RESERVED_HEADERS.contains(&name) {
            return Err(format!(
                "{name} is set by the sender itself and cannot carry a key"
            ));
        }
        Self::sensitive(name, key.expose_secret())
    }

    /// HTTP basic authentication.
    ///
    /// # Errors
    /// A message that does not contain the password.
    pub fn basic(user: &str, password: &SecretString) -> Result<Self, String> {
        if user.contains(':') {
            return Err("a user name must not contain a colon".to_owned());
        }
        let pair = STANDARD.encode(format!("{user}:{}", password.expose_secret()));
        Self::sensitive(AUTHORIZATION, &format!("Basic {pair}"))
    }

    fn sensitive(name: HeaderName, value: &str) -> Result<Self, String> {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| "not allowed in a header: use visible ASCII characters only")?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }
}

/// A server to send to. Everything that all requests have in common is prepared once.
#[derive(Clone)]
pub struct SendTarget {
    display_url: String,
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    paths: [Uri; 10],
    headers: HeaderMap,
}

impl SendTarget {
    /// Parses an `http` or `https` URL, in which `{type}` stands for the type.
    ///
    /// # Errors
    /// A message that says what is wrong with the URL and what is allowed.
    pub fn parse(url: &str) -> Result<Self, String> {
        const ALLOWED: &str = "write it as http://HOST[:PORT]/PATH or https://…";
        let uris = EventType::ALL.map(|t| {
            let url = url.replace(TYPE_PLACEHOLDER, &t.name().to_ascii_lowercase());
            url.parse::<Uri>()
                .map_err(|e| format!("not a URL: {e}; {ALLOWED}"))
        });
        let first = uris[0].clone()?;
        let (default_port, secure) = match first.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            _ => return Err(format!("neither http nor https; {ALLOWED}")),
        };
        let authority = first.authority().ok_or_else(|| ALLOWED.to_owned())?;
        if authority.as_str().contains('@') {
            return Err("credentials do not belong in the URL; use --basic".to_owned());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let tls = if secure {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("{host} is not a valid host name for a certificate"))?;
            Some((super::tls::system_roots(), name))
        } else {
            None
        };
        let mut paths: [Uri; 10] = Default::default();
        for (path, uri) in paths.iter_mut().zip(uris) {
            let uri = uri?;
            if uri.authority() != Some(authority) {
                return Err(format!("{TYPE_PLACEHOLDER} is allowed in the path only"));
            }
            let text = uri.path_and_query().map_or("/", |p| p.as_str());
            *path = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        }
        let mut headers = HeaderMap::with_capacity(4);
        let shown_host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| "a host name must be ASCII".to_owned())?;
        headers.insert(HOST, shown_host);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("butlr-bridge-simulate/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        Ok(Self {
            display_url: format!("{}://{authority}", if secure { "https" } else { "http" }),
            port: authority.port_u16().unwrap_or(default_port),
            host,
            tls,
            paths,
            headers,
        })
    }

    /// Adds credentials to all requests.
    #[must_use]
    pub fn with_credentials(mut self, credentials: SenderCredentials) -> Self {
        self.headers.insert(credentials.name, credentials.value);
        self
    }

    /// Trusts these certificates instead of the system's. Has no effect on an `http` URL.
    #[must_use]
    pub fn with_roots(mut self, roots: Arc<ClientConfig>) -> Self {
        if let Some((config, _)) = &mut self.tls {
            *config = roots;
        }
        self
    }

    /// Scheme, host and port. The rest of the URL may contain secrets.
    pub fn url(&self) -> &str {
        &self.display_url
    }

    pub(super) fn host(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(super) fn tls(&self) -> Option<&(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.as_ref()
    }

    pub(super) fn build_request(
        &self,
        event_type: EventType,
        body: bytes::Bytes,
    ) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.paths[event_type.index()].clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &SendTarget, event_type: EventType) -> Request<RequestBody> {
        target.build_request(event_type, bytes::Bytes::from_static(b"{}"))
    }

    #[test]
    fn one_url_or_one_per_type() {
        let one = SendTarget::parse("http://bridge:8080/v1/events?a=b").unwrap();
        let sent = request(&one, EventType::Traffic);
        assert_eq!(sent.uri(), "/v1/events?a=b");
        assert_eq!(sent.headers()[HOST], "bridge:8080");
        assert_eq!(one.host(), ("bridge", 8080));
        assert_eq!(one.url(), "http://bridge:8080");
        let each = SendTarget::parse("http://[::1]/v1/events/{type}").unwrap();
        let sent = request(&each, EventType::RoomOccupancy1Min);
        assert_eq!(sent.uri(), "/v1/events/room_occupancy_1min");
        assert_eq!(each.host(), ("::1", 80));
        assert!(each.tls().is_none());
        assert_eq!(SendTarget::parse("http://h").unwrap().paths[0], "/");
    }

    #[test]
    fn invalid_urls_are_explained() {
        for (url, expected) in [
            ("", "not a URL"),
            ("bridge:8080", "neither http nor https"),
            ("/v1/events", "neither http nor https"),
            ("ftp://bridge/", "neither http nor https"),
            ("http://u:p@bridge/", "--basic"),
            ("http://{type}.bridge/", "in the path only"),
        ] {
            let problem = SendTarget::parse(url).err().unwrap();
            assert!(problem.contains(expected), "{url}: {problem}");
        }
    }

    #[test]
    fn secrets_are_sent_and_not_shown() {
        let key = SecretString::from("s3cret");
        let api_key = SenderCredentials::api_key("X-Api-Key", &key).unwrap();
        let basic = SenderCredentials::basic("user", &key).unwrap();
        let target = SendTarget::parse("http://h/").unwrap();
        let shown = format!("{api_key:?} {basic:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("dXNlc"),
            "{shown}"
        );
        let sent = request(
            &target.clone().with_credentials(api_key),
            EventType::Traffic,
        );
        assert_eq!(sent.headers()["x-api-key"], "s3cret");
        let sent = request(&target.with_credentials(basic), EventType::Traffic);
        assert_eq!(sent.headers()[AUTHORIZATION], "Basic dXNlcjpzM2NyZXQ=");
        let bad = SenderCredentials::api_key("x", &SecretString::from("s3\ncret")).unwrap_err();
        assert!(!bad.contains("s3"), "{bad}");
        assert!(SenderCredentials::api_key("no name", &key).is_err());
        for name in ["Host", "content-length", "Transfer-Encoding", "Connection"] {
            let problem = SenderCredentials::api_key(name, &key).unwrap_err();
            assert!(problem.contains("set by the sender itself"), "{problem}");
        }
    }
}
