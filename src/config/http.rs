//! `[http]`: the ingest listener and its limits.

use super::reader::SectionReader;
use super::units::{format_duration, format_size};
use std::fs::File;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The ingest listener and what bounds a request.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to listen. Default 127.0.0.1:8080; beyond loopback only with credentials.
    pub bind: SocketAddr,
    /// Threads that serve requests. Default: the number of processors.
    pub workers: usize,
    /// Largest body in bytes, also after decompression. Default 1 MiB.
    pub max_body_bytes: usize,
    /// Largest single event in bytes, at most `max_body_bytes`. Default 256 KiB.
    pub max_event_bytes: usize,
    /// Most events in one array. Default 1,000.
    pub max_events: usize,
    /// Longest time from a request's last byte to its answer: 100 ms to 60 s. Default 2 s.
    pub answer_within: Duration,
    /// How long the sender waits for an answer, where that is known; longer than `answer_within`.
    pub sender_timeout: Option<Duration>,
    /// Longest time a client may take to send a request's headers. Default 5 s.
    pub header_timeout: Duration,
    /// Longest time a client may take to send a request's body. Default 5 s.
    pub body_timeout: Duration,
    /// How long an idle connection stays open. Default 75 s.
    pub keep_alive: Duration,
    /// Most open connections. Default 10,000.
    pub max_connections: usize,
    /// Most events waiting for Kafka at one time. Default 100,000.
    pub max_in_flight_events: usize,
    /// Most bytes of request bodies held at one time. Default 256 MiB.
    pub max_in_flight_bytes: usize,
    /// The certificate's files, where the listener speaks TLS. Both can be opened; what is in them is not checked here.
    pub tls: Option<TlsFiles>,
}

/// The PEM files of the ingest listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

const EVENT_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 30;
const BODY_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 30;
const IN_FLIGHT_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 40;
const ANSWER_WITHIN: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
const CLIENT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);
const KEEP_ALIVE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

const HAS_DEFAULT: &str = "the table of keys has a default for it";

pub(super) fn read(section: &SectionReader<'_>) -> HttpConfig {
    let duration = |name, bounds| section.duration(name, bounds).expect(HAS_DEFAULT);
    let size = |name, bounds| section.size(name, bounds).expect(HAS_DEFAULT);
    let count = |name, most| section.integer(name, 1..=most).expect(HAS_DEFAULT);
    HttpConfig {
        bind: section.address("bind").expect(HAS_DEFAULT),
        workers: section
            .integer("workers", 1..=1024)
            .unwrap_or_else(available_processors),
        max_body_bytes: size("max_body_bytes", BODY_BYTES),
        max_event_bytes: size("max_event_bytes", EVENT_BYTES),
        max_events: count("max_events", 100_000),
        answer_within: duration("answer_within", ANSWER_WITHIN),
        sender_timeout: section.duration("sender_timeout", CLIENT_TIMEOUT),
        header_timeout: duration("header_timeout", CLIENT_TIMEOUT),
        body_timeout: duration("body_timeout", CLIENT_TIMEOUT),
        keep_alive: duration("keep_alive", KEEP_ALIVE),
        max_connections: count("max_connections", 1_000_000),
        max_in_flight_events: count("max_in_flight_events", 10_000_000),
        max_in_flight_bytes: size("max_in_flight_bytes", IN_FLIGHT_BYTES),
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
    let file = |name: &str, other: &str| {
        let path = section.text(name);
        section.report_missing(name, format!("missing; TLS needs it next to {other}"));
        path.map(PathBuf::from).filter(|path| {
            let opened = File::open(path).and_then(|file| file.metadata());
            match opened {
                Ok(about) if about.is_dir() => {
                    section.report_error(name, format!("{} is a directory", path.display()))
                }
                Ok(_) => return true,
                Err(error) => section
                    .report_error(name, format!("{} cannot be read: {error}", path.display())),
            }
            false
        })
    };
    let (cert_file, key_file) = (file("cert_file", "key_file"), file("key_file", "cert_file"));
    Some(TlsFiles {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

/// The rules between the keys of this section.
pub(super) fn check(http: &HttpConfig, root: &SectionReader<'_>) {
    let section = root.section("http");
    if root.is_valid(&["http.max_event_bytes", "http.max_body_bytes"])
        && http.max_event_bytes > http.max_body_bytes
    {
        let [event, body] =
            [http.max_event_bytes, http.max_body_bytes].map(|bytes| format_size(bytes as u64));
        section.report_error(
            "max_event_bytes",
            format!(
                "{event} is more than http.max_body_bytes ({body}) lets in; allowed: up to that"
            ),
        );
    }
    if root.is_valid(&["http.max_in_flight_bytes", "http.max_body_bytes"])
        && http.max_in_flight_bytes < http.max_body_bytes
    {
        let [all, body] =
            [http.max_in_flight_bytes, http.max_body_bytes].map(|bytes| format_size(bytes as u64));
        section.report_error(
            "max_in_flight_bytes",
            format!(
                "{all} is less than one body of http.max_body_bytes ({body}), which would \
                 never be let in; allowed: from that on"
            ),
        );
    }
    if root.is_valid(&["http.max_in_flight_events", "http.max_events"])
        && http.max_in_flight_events < http.max_events
    {
        let HttpConfig {
            max_in_flight_events: all,
            max_events: array,
            ..
        } = http;
        section.report_error(
            "max_in_flight_events",
            format!(
                "{all} is less than one array of http.max_events ({array}), which would never \
                 be let in; allowed: from that on"
            ),
        );
    }
    if root.is_valid(&["http.answer_within", "http.sender_timeout"])
        && let Some(sender) = http.sender_timeout
        && http.answer_within >= sender
    {
        let [answer, sender] = [http.answer_within, sender].map(format_duration);
        section.report_error(
            "answer_within",
            format!(
                "after {answer} the sender has given up already (http.sender_timeout is \
                 {sender}) and sends everything again; allowed: less than that, with room for \
                 the way there and back"
            ),
        );
    }
}
