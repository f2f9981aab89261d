//! `[auth]`: credentials of senders.

use super::admin::read_username;
use super::reader::SectionReader;
use super::secret;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};

/// Credentials of senders. A request needs one of them; without any, every request is accepted.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// Keys that senders put into a header.
    pub api_keys: Vec<ApiKey>,
    /// Users of HTTP Basic authentication.
    pub basic: Vec<BasicCredentials>,
}

impl AuthConfig {
    /// Returns `true` if no credentials are configured.
    pub fn is_empty(&self) -> bool {
        self.api_keys.is_empty() && self.basic.is_empty()
    }
}

/// A key that the sender puts into a header.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Name in metrics and logs: 1 to 64 of `A-Z a-z 0-9 _ . -`, unique among all credentials.
    pub name: String,
    /// Name of the header, in lower case.
    pub header: String,
    /// Visible ASCII.
    pub value: SecretString,
}

/// A user of HTTP Basic authentication.
#[derive(Clone, Debug)]
pub struct BasicCredentials {
    /// Name in metrics and logs: 1 to 64 of `A-Z a-z 0-9 _ . -`, unique among all credentials.
    pub name: String,
    /// Visible ASCII without a colon.
    pub username: String,
    /// Visible ASCII.
    pub password: SecretString,
}

/// Headers that HTTP or the bridge itself uses.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

pub(super) fn read(section: &SectionReader<'_>) -> AuthConfig {
    let mut names = BTreeSet::new();
    let mut auth = AuthConfig::default();
    let mut seen = BTreeMap::new();
    for item in &section.items("api_keys") {
        let (name, header, value) = (
            read_name(item, &mut names),
            read_header(item),
            secret::read_required(item, "value"),
        );
        if let (Some(name), Some(header), Some(value)) = (name, header, value)
            && is_unique(item, (&header, &value), &mut seen)
        {
            let key = ApiKey {
                name,
                header,
                value,
            };
            auth.api_keys.push(key);
        }
    }
    seen.clear();
    for item in &section.items("basic") {
        let (name, username, password) = (
            read_name(item, &mut names),
            read_username(item),
            secret::read_required(item, "password"),
        );
        if let (Some(name), Some(username), Some(password)) = (name, username, password)
            && is_unique(item, (&username, &password), &mut seen)
        {
            let credentials = BasicCredentials {
                name,
                username,
                password,
            };
            auth.basic.push(credentials);
        }
    }
    auth
}

/// Returns `true` if no other item has this header or user name with this secret. Reports it
/// otherwise, because metrics and logs could not tell the two apart.
fn is_unique(
    item: &SectionReader<'_>,
    (name, secret): (&str, &SecretString),
    seen: &mut BTreeMap<(String, String), String>,
) -> bool {
    let pair = (name.to_owned(), secret.expose_secret().to_owned());
    let other = seen.insert(pair, item.key().to_owned());
    if let Some(other) = &other {
        item.report_error(
            "",
            format!("identical to {other}; remove one, or change its secret"),
        );
    }
    other.is_none()
}

/// Reads the name of a credential, which is a label in metrics: short, plain and unique.
fn read_name(item: &SectionReader<'_>, names: &mut BTreeSet<String>) -> Option<String> {
    item.report_missing("name", "missing; name this credential for metrics and logs");
    let name = item.text("name")?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
        // Not quoted: it may be the secret, put into the wrong key.
        item.report_error(
            "name",
            "not a valid name; use 1 to 64 letters, digits, underscores, dots and hyphens",
        );
        return None;
    }
    if !names.insert(name.clone()) {
        item.report_error(
            "name",
            format!("{name} is the name of another credential; use a unique name"),
        );
        return None;
    }
    Some(name)
}

fn read_header(item: &SectionReader<'_>) -> Option<String> {
    item.report_missing(
        "header",
        "missing; name the header that carries the key, such as x-api-key",
    );
    let header = item.text("header")?.to_ascii_lowercase();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if header.is_empty() || header.len() > 64 || !header.bytes().all(is_token) {
        item.report_error(
            "header",
            "not a valid header name; use one such as x-api-key, with at most 64 characters",
        );
        return None;
    }
    if RESERVED_HEADERS.contains(&header.as_str()) {
        item.report_error(
            "header",
            format!(
                "{header} is used by HTTP or by the bridge; use another header, such as x-api-key"
            ),
        );
        return None;
    }
    Some(header)
}
