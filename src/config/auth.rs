//! `[auth]`: who may send events.

use super::admin::read_username;
use super::reader::SectionReader;
use super::secret;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};

/// The credentials of which a request needs one; without any, every request is let in.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// Keys in a header.
    pub api_keys: Vec<ApiKey>,
    /// HTTP Basic.
    pub basic: Vec<BasicCredentials>,
}

impl AuthConfig {
    /// Whether no credentials are configured at all.
    pub fn is_empty(&self) -> bool {
        self.api_keys.is_empty() && self.basic.is_empty()
    }
}

/// A key that the sender puts into a header.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// What metrics and logs call it: 1 to 64 of `A-Z a-z 0-9 _ . -`, unique among all credentials.
    pub name: String,
    /// The header's name, in lower case.
    pub header: String,
    /// The key: visible ASCII.
    pub value: SecretString,
}

/// A user of HTTP Basic authentication.
#[derive(Clone, Debug)]
pub struct BasicCredentials {
    /// What metrics and logs call it: 1 to 64 of `A-Z a-z 0-9 _ . -`, unique among all credentials.
    pub name: String,
    /// The user name: visible ASCII without a colon.
    pub username: String,
    /// The password: visible ASCII.
    pub password: SecretString,
}

/// Headers that HTTP itself, or the bridge's reading of the body, gives a meaning.
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
        let (Some(name), Some(header), Some(value)) = (name, header, value) else {
            continue;
        };
        match seen.insert(
            (header.clone(), value.expose_secret().to_owned()),
            item.key().to_owned(),
        ) {
            Some(other) => item.report_error(
                "",
                format!(
                    "the same header and value as {other}, so nobody could tell the two apart; \
                     allowed: another value"
                ),
            ),
            None => auth.api_keys.push(ApiKey {
                name,
                header,
                value,
            }),
        }
    }
    seen.clear();
    for item in &section.items("basic") {
        let (name, username, password) = (
            read_name(item, &mut names),
            read_username(item),
            secret::read_required(item, "password"),
        );
        let (Some(name), Some(username), Some(password)) = (name, username, password) else {
            continue;
        };
        match seen.insert(
            (username.clone(), password.expose_secret().to_owned()),
            item.key().to_owned(),
        ) {
            Some(other) => item.report_error(
                "",
                format!(
                    "the same user name and password as {other}, so nobody could tell the two \
                     apart; allowed: another password"
                ),
            ),
            None => auth.basic.push(BasicCredentials {
                name,
                username,
                password,
            }),
        }
    }
    auth
}

/// The name of a credential: a label in metrics, so it must be short, plain and its own.
fn read_name(item: &SectionReader<'_>, names: &mut BTreeSet<String>) -> Option<String> {
    item.report_missing(
        "name",
        "missing; metrics and logs need a name for this credential",
    );
    let name = item.text("name")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        // Not repeated: it may be the value, swapped.
        item.report_error(
            "name",
            "not a name; allowed are 1 to 64 letters, digits, underscores, dots and hyphens",
        );
        return None;
    }
    if !names.insert(name.clone()) {
        item.report_error(
            "name",
            format!("{name} is taken by another credential; allowed: a name of its own"),
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
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if header.is_empty() || header.len() > 64 || !header.bytes().all(token) {
        item.report_error(
            "header",
            "not the name of a header; allowed is one such as x-api-key, at most 64 characters",
        );
        return None;
    }
    if RESERVED_HEADERS.contains(&header.as_str()) {
        item.report_error(
            "header",
            format!(
                "{header} has a meaning of its own in HTTP; allowed is another, such as x-api-key"
            ),
        );
        return None;
    }
    Some(header)
}
