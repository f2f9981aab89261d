//! `[admin]`: listener for metrics, probes and status pages.

use super::reader::SectionReader;
use super::secret;
use secrecy::SecretString;
use std::net::SocketAddr;

/// The admin listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Address of the listener.
    pub bind: SocketAddr,
    /// Credentials for the status pages. Without them, an address that other machines can reach
    /// serves only metrics and probes.
    pub credentials: Option<AdminCredentials>,
}

/// User name and password of the status pages (HTTP Basic).
#[derive(Clone, Debug)]
pub struct AdminCredentials {
    /// Visible ASCII without a colon.
    pub username: String,
    /// Visible ASCII.
    pub password: SecretString,
}

pub(super) fn read(section: &SectionReader<'_>) -> AdminConfig {
    let has_credentials = ["username", "password", "password_file"]
        .iter()
        .any(|name| section.is_set(name));
    let read_credentials = || {
        let username = read_username(section);
        let password = secret::read_required(section, "password");
        Some(AdminCredentials {
            username: username?,
            password: password?,
        })
    };
    AdminConfig {
        bind: section.address("bind"),
        credentials: has_credentials.then(read_credentials).flatten(),
    }
}

/// Reads the user name of HTTP Basic credentials. Errors do not quote it, because users confuse it
/// with the password.
pub(super) fn read_username(section: &SectionReader<'_>) -> Option<String> {
    section.report_missing("username", "missing; a password needs a user name");
    let username = section.text("username")?;
    let checked = secret::check_header_text(&username).and_then(|()| {
        if username.contains(':') {
            Err("contains a colon, which HTTP Basic does not allow in a user name".to_owned())
        } else {
            Ok(())
        }
    });
    section.ok_or_report("username", checked)?;
    Some(username)
}
