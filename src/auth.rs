//! Authentication: finds the credential that a request carries, in constant time.

use std::fmt;
use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prometheus::{IntCounter, IntCounterVec};
use ring::digest::{Digest, SHA256, digest};
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use crate::config;

/// All credentials that are currently accepted. To rotate one, configure the old and the new one
/// for a while.
///
/// Secrets are compared as SHA-256 digests, so each comparison has the same length and takes
/// constant time. Each request is compared with every credential.
pub struct Authenticator {
    /// Credentials by header, so that a header's value is hashed once.
    headers: Vec<(HeaderName, Vec<Credential>)>,
    missing: IntCounter,
    unknown: IntCounter,
    /// Used if no credentials are configured, which is possible on loopback only.
    anonymous: Option<AnonymousAccess>,
}

struct Credential {
    name: Arc<str>,
    digest: Digest,
    accepted: IntCounter,
}

struct AnonymousAccess {
    name: Arc<str>,
    accepted: IntCounter,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Credential name in metrics and quarantine headers if no credentials are configured.
const ANONYMOUS: &str = "anonymous";

impl Authenticator {
    /// Creates an authenticator. `requests` is `auth_requests_total{credential, result}`.
    pub fn new(auth: &config::AuthConfig, requests: &IntCounterVec) -> Self {
        let mut headers: Vec<(HeaderName, Vec<Credential>)> = Vec::new();
        let mut add = |header: HeaderName, name: &str, secret: &[u8]| {
            let credential = Credential {
                name: name.into(),
                digest: digest(&SHA256, secret),
                accepted: requests.with_label_values(&[name, "accepted"]),
            };
            match headers.iter_mut().find(|(h, _)| *h == header) {
                Some((_, credentials)) => credentials.push(credential),
                None => headers.push((header, vec![credential])),
            }
        };
        for key in &auth.api_keys {
            let header = HeaderName::try_from(key.header.as_str())
                .expect("the configuration checks header names");
            let value = key.value.expose_secret().as_bytes();
            let value = canonicalize_value(&header, value).into_owned();
            add(header, &key.name, &value);
        }
        for basic in &auth.basic {
            add(
                AUTHORIZATION,
                &basic.name,
                basic_header_value(basic).as_bytes(),
            );
        }
        Self {
            anonymous: headers.is_empty().then(|| AnonymousAccess {
                name: ANONYMOUS.into(),
                accepted: requests.with_label_values(&[ANONYMOUS, "accepted"]),
            }),
            headers,
            missing: requests.with_label_values(&["none", "rejected"]),
            unknown: requests.with_label_values(&["unknown", "rejected"]),
        }
    }

    /// Returns the names of the credentials.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().flat_map(|(_, c)| c).map(|c| &*c.name)
    }

    /// Returns the name of the credential that the request carries, or `None`. Counts both.
    pub fn authenticate(&self, request: &HeaderMap) -> Option<Arc<str>> {
        if let Some(anonymous) = &self.anonymous {
            anonymous.accepted.inc();
            return Some(Arc::clone(&anonymous.name));
        }
        let mut has_credential = false;
        let mut found = None;
        for (header, credentials) in &self.headers {
            let Some(value) = request.get(header) else {
                continue;
            };
            has_credential = true;
            let value = canonicalize_value(header, value.as_bytes());
            let value_digest = digest(&SHA256, value.as_ref());
            for credential in credentials {
                let is_equal: Choice = credential.digest.as_ref().ct_eq(value_digest.as_ref());
                if bool::from(is_equal) {
                    found = Some(credential);
                }
            }
        }
        match found {
            Some(credential) => credential.accepted.inc(),
            None if has_credential => self.unknown.inc(),
            None => self.missing.inc(),
        }
        found.map(|c| Arc::clone(&c.name))
    }
}

/// Returns `Basic <base64 of username:password>` (RFC 7617).
fn basic_header_value(basic: &config::BasicCredentials) -> String {
    let pair = format!("{}:{}", basic.username, basic.password.expose_secret());
    format!("Basic {}", STANDARD.encode(pair))
}

/// Normalises the scheme of `Authorization`, which is case-insensitive (RFC 9110, 11.1). API keys
/// stay as they are.
fn canonicalize_value<'v>(header: &HeaderName, value: &'v [u8]) -> std::borrow::Cow<'v, [u8]> {
    const SCHEME: &[u8] = b"basic ";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if header == AUTHORIZATION && scheme.eq_ignore_ascii_case(SCHEME) => {
            [b"Basic ", rest.trim_ascii()].concat().into()
        }
        _ => value.into(),
    }
}

/// Credentials for the admin listener's page and `/status`; `None` if they need none.
#[derive(Debug)]
pub struct AdminAuthenticator(Option<Authenticator>);

impl AdminAuthenticator {
    /// Creates an authenticator for the configured user name and password.
    pub fn new(admin: &config::AdminConfig) -> Self {
        Self(admin.credentials.as_ref().map(|pair| {
            let auth = config::AuthConfig {
                api_keys: Vec::new(),
                basic: vec![config::BasicCredentials {
                    name: "admin".to_owned(),
                    username: pair.username.clone(),
                    password: pair.password.clone(),
                }],
            };
            // Not registered: requests to the admin listener do not count as ingest requests.
            let unregistered = IntCounterVec::new(
                prometheus::Opts::new("admin", "not registered"),
                &["credential", "result"],
            )
            .expect("valid metric name");
            Authenticator::new(&auth, &unregistered)
        }))
    }

    /// Returns `true` if a request may see the page and `/status`.
    pub fn is_allowed(&self, request: &HeaderMap) -> bool {
        self.0
            .as_ref()
            .is_none_or(|credentials| credentials.authenticate(request).is_some())
    }

    /// Returns `true` if credentials are configured.
    pub fn is_configured(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn counters() -> IntCounterVec {
        IntCounterVec::new(prometheus::Opts::new("a", "a"), &["credential", "result"]).unwrap()
    }

    fn auth() -> config::AuthConfig {
        let key = |name: &str, header: &str, value: &str| config::ApiKey {
            name: name.into(),
            header: header.into(),
            value: value.to_owned().into(),
        };
        config::AuthConfig {
            api_keys: vec![
                key("old", "x-api-key", "alpha"),
                key("new", "x-api-key", "beta"),
                key("other", "x-token", "gamma"),
            ],
            basic: vec![config::BasicCredentials {
                name: "vendor".into(),
                username: "butlr".into(),
                password: "pass:word".to_owned().into(),
            }],
        }
    }

    fn request(header: &'static str, value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(
            HeaderName::from_static(header),
            HeaderValue::from_str(value).unwrap(),
        );
        map
    }

    #[test]
    fn every_credential_is_valid_at_the_same_time_and_counted_by_name() {
        let counters = counters();
        let credentials = Authenticator::new(&auth(), &counters);
        let name = |header, value: &str| credentials.authenticate(&request(header, value));
        assert_eq!(name("x-api-key", "alpha").as_deref(), Some("old"));
        assert_eq!(name("x-api-key", "beta").as_deref(), Some("new"));
        assert_eq!(name("x-token", "gamma").as_deref(), Some("other"));
        let pair = STANDARD.encode("butlr:pass:word");
        assert_eq!(
            name("authorization", &format!("Basic {pair}")).as_deref(),
            Some("vendor")
        );
        assert_eq!(
            name("authorization", &format!("bAsIc {pair}")).as_deref(),
            Some("vendor")
        );
        assert_eq!(
            name("x-api-key", "gamma"),
            None,
            "right value, wrong header"
        );
        assert_eq!(name("x-api-key", ""), None);
        assert_eq!(name("x-api-key", "alph"), None);
        assert_eq!(name("authorization", "Basic"), None);
        assert_eq!(credentials.authenticate(&HeaderMap::new()), None);
        let count = |c, r| counters.with_label_values(&[c, r]).get();
        assert_eq!(count("vendor", "accepted"), 2);
        assert_eq!(count("unknown", "rejected"), 4);
        assert_eq!(count("none", "rejected"), 1);
    }

    #[test]
    fn debug_shows_names_only() {
        let credentials = Authenticator::new(&auth(), &counters());
        assert_eq!(
            format!("{credentials:?}"),
            r#"["old", "new", "other", "vendor"]"#
        );
    }
}
