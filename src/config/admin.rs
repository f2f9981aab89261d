//! `[admin]`: the listener for metrics, probes and the status pages.

use super::reader::SectionReader;
use super::secret;
use secrecy::SecretString;
use std::net::SocketAddr;

/// The admin listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where to listen. Default 127.0.0.1:9464.
    pub bind: SocketAddr,
    /// Who may see the status pages. Beyond loopback and without these, only metrics and probes are served.
    pub credentials: Option<AdminCredentials>,
}

/// User name and password of the status pages (HTTP Basic).
#[derive(Clone, Debug)]
pub struct AdminCredentials {
    /// The user name: visible ASCII without a colon.
    pub username: String,
    /// The password: visible ASCII.
    pub password: SecretString,
}

pub(super) fn read(section: &SectionReader<'_>) -> AdminConfig {
    let credentials = ["username", "password", "password_file"]
        .iter()
        .any(|name| section.is_set(name));
    AdminConfig {
        bind: section
            .address("bind")
            .expect("the table of keys has a default for it"),
        credentials: if credentials {
            read_credentials(section)
        } else {
            None
        },
    }
}

fn read_credentials(section: &SectionReader<'_>) -> Option<AdminCredentials> {
    let (username, password) = (
        read_username(section),
        secret::read_required(section, "password"),
    );
    Some(AdminCredentials {
        username: username?,
        password: password?,
    })
}

/// The user name of a section with HTTP Basic credentials. It is not repeated in a mistake: people swap the two.
pub(super) fn read_username(section: &SectionReader<'_>) -> Option<String> {
    section.report_missing("username", "missing; it is needed next to the password");
    let username = section.text("username")?;
    let problem = match secret::check_header_text(&username) {
        Ok(()) if username.contains(':') => {
            "contains a colon, which ends the user name in HTTP Basic".to_owned()
        }
        Ok(()) => return Some(username),
        Err(problem) => problem,
    };
    section.report_error("username", problem);
    None
}
