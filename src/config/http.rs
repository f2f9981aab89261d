//! `[http]`: the ingest listener and its limits.

use super::reader::SectionReader;
use super::units::{format_duration, format_size};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The ingest listener and its limits.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address of the listener; beyond loopback it requires credentials.
    pub bind: SocketAddr,
    /// Threads that serve requests.
    pub workers: usize,
    /// Maximum bytes of a body, before and after decompression.
    pub max_body_bytes: usize,
    /// Maximum bytes of one event, at most `max_body_bytes`.
    pub max_event_bytes: usize,
    /// Maximum number of events in one array.
    pub max_events: usize,
    /// Response deadline, counted from the last byte of a request.
    pub answer_within: Duration,
    /// Time that the sender waits for a response, if known; longer than `answer_within`.
    pub sender_timeout: Option<Duration>,
    /// Maximum time for a client to send the headers of a request.
    pub header_timeout: Duration,
    /// Maximum time for a client to send the body of a request.
    pub body_timeout: Duration,
    /// Time after which an idle connection is closed.
    pub keep_alive: Duration,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// Maximum number of events that wait for Kafka.
    pub max_in_flight_events: usize,
    /// Maximum bytes of all request bodies in memory.
    pub max_in_flight_bytes: usize,
    /// Certificate of the listener if it uses TLS. The files can be opened; their content is
    /// checked later.
    pub tls: Option<TlsFiles>,
}

/// PEM files of the ingest listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key of the certificate.
    pub key_file: PathBuf,
}

pub(super) fn read(section: &SectionReader<'_>) -> HttpConfig {
    HttpConfig {
        bind: section.address("bind"),
        workers: section
            .optional_integer("workers")
            .unwrap_or_else(available_processors),
        max_body_bytes: section.size("max_body_bytes"),
        max_event_bytes: section.size("max_event_bytes"),
        max_events: section.integer("max_events"),
        answer_within: section.duration("answer_within"),
        sender_timeout: section.optional_duration("sender_timeout"),
        header_timeout: section.duration("header_timeout"),
        body_timeout: section.duration("body_timeout"),
        keep_alive: section.duration("keep_alive"),
        max_connections: section.integer("max_connections"),
        max_in_flight_events: section.integer("max_in_flight_events"),
        max_in_flight_bytes: section.size("max_in_flight_bytes"),
        tls: if section.is_set("tls") {
            read_tls(&section.section("tls"))
        } else {
            None
        },
    }
}

fn available_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn read_tls(section: &SectionReader<'_>) -> Option<TlsFiles> {
    let read_path = |name: &str, other: &str| {
        section.report_missing(name, format!("missing; TLS needs it together with {other}"));
        let path = PathBuf::from(section.text(name)?);
        let opened = match File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => Err(format!("{} is a directory", path.display())),
            Ok(_) => Ok(path),
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        };
        section.ok_or_report(name, opened)
    };
    let cert_file = read_path("cert_file", "key_file");
    let key_file = read_path("key_file", "cert_file");
    Some(TlsFiles {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

/// Checks the rules between the keys of this section.
pub(super) fn check(http: &HttpConfig, root: &SectionReader<'_>) {
    let size = |bytes: usize| format_size(bytes as u64);
    root.check_rule(&["http.max_event_bytes", "http.max_body_bytes"], || {
        let [event, body] = [http.max_event_bytes, http.max_body_bytes];
        (event > body).then(|| {
            let (event, body) = (size(event), size(body));
            format!("{event} is more than http.max_body_bytes ({body}); allowed: up to that")
        })
    });
    root.check_rule(&["http.max_in_flight_bytes", "http.max_body_bytes"], || {
        let [all, body] = [http.max_in_flight_bytes, http.max_body_bytes];
        (all < body).then(|| {
            format!(
                "{} is less than one body of http.max_body_bytes ({}), so the largest bodies would \
                 always be refused; allowed: at least that",
                size(all),
                size(body)
            )
        })
    });
    root.check_rule(&["http.max_in_flight_events", "http.max_events"], || {
        let [all, array] = [http.max_in_flight_events, http.max_events];
        (all < array).then(|| {
            format!(
                "{all} is less than one array of http.max_events ({array}), so the longest arrays \
                 would always be refused; allowed: at least that"
            )
        })
    });
    root.check_rule(&["http.answer_within", "http.sender_timeout"], || {
        let sender = http
            .sender_timeout
            .filter(|sender| http.answer_within >= *sender)?;
        let [answer, sender] = [http.answer_within, sender].map(format_duration);
        Some(format!(
            "{answer} is too long: the sender gives up after {sender} (http.sender_timeout) and \
             sends the events again; make it shorter than that, with room for the network"
        ))
    });
}
