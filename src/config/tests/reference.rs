//! Generates `docs/configuration.md` (the part with the keys) and `deploy/butlr-bridge.toml` from
//! the table of keys, and compares them with the files.

use super::super::keys::{DefaultValue, KEYS, KeySpec, ValueType};
use super::super::units::{format_duration, format_size};
use super::*;
use butlr_event::EventType;
use std::fs;
use std::path::Path;

/// Set to 1, makes the tests write the files instead of comparing them.
const UPDATE_VARIABLE: &str = "BUTLR_BRIDGE_TEST_UPDATE";
const MARKER: &str = "<!-- generated: keys -->\n";
const MARKDOWN_COLUMNS: usize = 120;
const TOML_COLUMNS: usize = 100;

/// Tables and their descriptions, in the order of the keys.
const TABLES: &[(&str, &str)] = &[
    ("http", "The ingest listener and its limits."),
    (
        "http.tls",
        "TLS on the ingest listener. The certificate is read again on SIGHUP.",
    ),
    (
        "admin",
        "The listener for metrics, probes and status pages.",
    ),
    ("kafka", "Connection to Kafka, and publishing of records."),
    ("kafka.properties", "Properties of librdkafka."),
    (
        "kafka.secret_files",
        "Properties of librdkafka whose values are secrets.",
    ),
    (
        "topics",
        "The topics. `topics` compares them with the broker; `topics --apply` and \
         `serve --create-topics` create them.",
    ),
    (
        "topics.types.*",
        "Settings of one event type, in a table named after it: {types}.",
    ),
    (
        "auth.api_keys[]",
        "Credentials of senders: API keys. A request needs one of all configured credentials. \
         Configure two at a time to rotate a secret. They are read again on SIGHUP.",
    ),
    (
        "auth.basic[]",
        "Credentials of senders: users of HTTP Basic authentication. They are read again on SIGHUP.",
    ),
    ("dedup", "Duplicate detection."),
    (
        "spool",
        "Events that Kafka does not confirm in time wait here, fsynced to disk.",
    ),
    ("quarantine", "Handling of rejected items."),
    ("log", "The log."),
    ("shutdown", "Timing of the shutdown."),
];

/// Tables that the example file comments out as a whole.
const INACTIVE_TABLES: &[&str] = &[
    "http.tls",
    "topics.types.*",
    "auth.api_keys[]",
    "auth.basic[]",
];

/// A line of the example file.
#[derive(Clone, Copy)]
enum Example {
    /// Commented out.
    Inactive(&'static str),
    Active(&'static str),
    /// Commented out and indented, so that `deploy/check.sh` does not uncomment it: another key
    /// excludes it.
    Alternative(&'static str),
}
use Example::{Active, Alternative, Inactive};

/// Values in the example file other than the defaults.
const EXAMPLES: &[(&str, Example)] = &[
    ("http.workers", Inactive("2")),
    ("http.sender_timeout", Inactive("5s")),
    ("http.tls.cert_file", Inactive("/etc/butlr-bridge/tls.crt")),
    ("http.tls.key_file", Inactive("/etc/butlr-bridge/tls.key")),
    ("admin.username", Inactive("operator")),
    ("admin.password", Alternative("…")),
    (
        "admin.password_file",
        Inactive("/run/secrets/admin-password"),
    ),
    ("kafka.bootstrap_servers", Active("localhost:9092")),
    ("topics.replication_factor", Inactive("3")),
    ("topics.min_insync_replicas", Inactive("2")),
    ("topics.types.*.name", Inactive("butlr.event.detections.v1")),
    ("topics.types.*.partitions", Inactive("24")),
    ("topics.types.*.replication_factor", Inactive("3")),
    ("topics.types.*.min_insync_replicas", Inactive("2")),
    ("topics.types.*.retention", Inactive("4d")),
    ("auth.api_keys[].name", Inactive("butlr-2025")),
    ("auth.api_keys[].header", Inactive("x-api-key")),
    ("auth.api_keys[].value", Alternative("…")),
    (
        "auth.api_keys[].value_file",
        Inactive("/run/secrets/butlr-api-key"),
    ),
    ("auth.basic[].name", Inactive("butlr-basic")),
    ("auth.basic[].username", Inactive("butlr")),
    ("auth.basic[].password", Alternative("…")),
    (
        "auth.basic[].password_file",
        Inactive("/run/secrets/butlr-password"),
    ),
    ("dedup.store", Inactive("redis")),
    (
        "dedup.redis_url",
        Alternative("rediss://user:password@redis:6379/0"),
    ),
    ("dedup.redis_url_file", Inactive("/run/secrets/redis-url")),
    ("spool.dir", Active("/var/lib/butlr-bridge/spool")),
];

/// Lines for the keys whose names the user chooses.
const PROPERTY_EXAMPLES: &[(&str, &[&str])] = &[
    (
        "kafka.properties.*",
        &[
            "\"client.id\" = \"butlr-bridge\"",
            "\"security.protocol\" = \"SASL_SSL\"",
            "\"sasl.mechanism\" = \"SCRAM-SHA-512\"",
            "\"sasl.username\" = \"butlr-bridge\"",
            "\"ssl.ca.location\" = \"/etc/ssl/certs/ca-certificates.crt\"",
        ],
    ),
    (
        "kafka.secret_files.*",
        &["\"sasl.password\" = \"/run/secrets/kafka-password\""],
    ),
];

const EXAMPLE_HEADER: &str = "\
# All keys of butlr-bridge, generated from the table of keys (docs/testing.md says how). A line that
# is commented out shows the default, or an example where the text names another default or none.
# An indented line shows an alternative to the next key.
#
# Check a configuration; this reports all errors at once and needs no Kafka:
#   butlr-bridge check-config --config butlr-bridge.toml
#
# The environment overrides this file, and the command line overrides both:
#   BUTLR_BRIDGE__HTTP__ANSWER_WITHIN=3s
#
# Durations: \"500ms\", \"3s\", \"1m\", \"3d\". Sizes: bytes, or \"64KiB\", \"1MiB\". An unknown key is an
# error.
";

/// Returns table and name of a key.
fn split(spec: &KeySpec) -> (&'static str, &'static str) {
    spec.key.rsplit_once('.').expect("a key in a table")
}

fn keys_in(table: &str) -> impl Iterator<Item = &'static KeySpec> {
    KEYS.iter().filter(move |spec| split(spec).0 == table)
}

fn description(text: &str) -> String {
    text.replace("{types}", &EventType::ALL.map(EventType::name).join(", "))
}

/// Breaks a text into lines: `first` before the first one, `next` before the others.
fn wrap(text: &str, columns: usize, first: &str, next: &str) -> String {
    let mut wrapped = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > columns {
            wrapped += &format!("{line}\n");
            line = next.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    wrapped + &line + "\n"
}

fn describe_type(value_type: &ValueType) -> String {
    match value_type {
        ValueType::Text(kind) => (*kind).to_owned(),
        ValueType::Boolean => "`true` or `false`".to_owned(),
        ValueType::Integer(bounds) => format!("integer, {} to {}", bounds.start(), bounds.end()),
        ValueType::Size(bounds) => {
            let [min, max] = [*bounds.start(), *bounds.end()].map(format_size);
            format!("size, {min} to {max}")
        }
        ValueType::Duration(bounds) => {
            let [min, max] = [*bounds.start(), *bounds.end()].map(format_duration);
            format!("duration, {min} to {max}")
        }
        ValueType::DurationOrForever(bounds) => {
            let [min, max] = [*bounds.start(), *bounds.end()].map(format_duration);
            format!("duration, {min} to {max}, or `forever`")
        }
        ValueType::Choice(words) => {
            let (last, others) = words.split_last().expect("a choice has words");
            let others = others.join("`, `");
            format!("`{others}` or `{last}`")
        }
    }
}

fn describe_default(default: &DefaultValue) -> String {
    match *default {
        DefaultValue::Literal(text) => format!("default `{text}`"),
        DefaultValue::Described("required") => "required".to_owned(),
        DefaultValue::Described("none") => "no default".to_owned(),
        DefaultValue::Described(text) => format!("default: {text}"),
    }
}

fn generate_markdown() -> String {
    let mut markdown = String::new();
    for (table, text) in TABLES {
        let heading = match table.strip_suffix("[]") {
            Some(array) => format!("[[{array}]]"),
            None => format!("[{table}]"),
        };
        markdown += &format!("\n### `{heading}`\n\n");
        markdown += &wrap(&description(text), MARKDOWN_COLUMNS, "", "");
        markdown.push('\n');
        for spec in keys_in(table) {
            let name = match split(spec).1 {
                "*" => "`\"name\"`".to_owned(),
                name => format!("**{name}**"),
            };
            let value_type = describe_type(&spec.value_type);
            let default = describe_default(&spec.default);
            let text = format!("{name} ({value_type}; {default}).{}", spec.doc);
            markdown += &wrap(&text, MARKDOWN_COLUMNS, "* ", "  ");
        }
    }
    markdown
}

fn generate_example() -> String {
    let mut toml = EXAMPLE_HEADER.to_owned();
    for (table, text) in TABLES {
        toml.push('\n');
        toml += &wrap(&description(text), TOML_COLUMNS, "# ", "# ");
        let comment = if INACTIVE_TABLES.contains(table) {
            "#"
        } else {
            ""
        };
        let heading = match table.strip_suffix("[]") {
            Some(array) => format!("[[{array}]]"),
            None => format!("[{}]", table.replace('*', EventType::Detections.name())),
        };
        toml += &format!("{comment}{heading}\n");
        for spec in keys_in(table) {
            toml += &generate_entry(spec);
        }
    }
    toml
}

fn generate_entry(spec: &KeySpec) -> String {
    let lines = PROPERTY_EXAMPLES.iter().find(|(key, _)| *key == spec.key);
    if let Some((_, lines)) = lines {
        let lines: String = lines.iter().map(|line| format!("#{line}\n")).collect();
        return wrap(spec.doc.trim(), TOML_COLUMNS, "# ", "# ") + &lines;
    }
    let example = EXAMPLES.iter().find(|(key, _)| *key == spec.key);
    let (example, default) = match (example, &spec.default) {
        (Some((_, example)), default) => (*example, describe_default(default)),
        (None, DefaultValue::Literal(text)) => (Inactive(text), String::new()),
        (None, DefaultValue::Described(_)) => panic!("{} needs an example", spec.key),
    };
    let default = match default.as_str() {
        "" | "no default" => String::new(),
        "required" => " Required.".to_owned(),
        default => format!(" D{}.", &default[1..]),
    };
    let entry = |value: &str| {
        let name = split(spec).1;
        match spec.value_type {
            ValueType::Integer(_) | ValueType::Boolean => format!("{name} = {value}"),
            _ => format!("{name} = {value:?}"),
        }
    };
    let line = match example {
        Inactive(value) => format!("#{}", entry(value)),
        Active(value) => entry(value),
        Alternative(value) => format!("#   {}", entry(value)),
    };
    wrap(
        &format!("{}{default}", spec.doc.trim()),
        TOML_COLUMNS,
        "# ",
        "# ",
    ) + &line
        + "\n"
}

#[track_caller]
fn compare_or_update(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var(UPDATE_VARIABLE).is_ok_and(|value| value == "1") {
        fs::write(&path, expected).unwrap();
    }
    let actual = fs::read_to_string(&path).unwrap();
    let line = actual.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        actual == expected,
        "{file} does not match src/config/keys.rs; run this test with {UPDATE_VARIABLE}=1 to update \
         it; first difference: {line:?}"
    );
}

#[test]
fn the_documentation_matches_the_keys() {
    let file = "docs/configuration.md";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let page = fs::read_to_string(path).unwrap();
    let (text, _) = page
        .split_once(MARKER)
        .expect("the marker of the generated part");
    compare_or_update(file, &format!("{text}{MARKER}{}", generate_markdown()));
}

#[test]
fn the_example_file_matches_the_keys() {
    compare_or_update("deploy/butlr-bridge.toml", &generate_example());
}

#[test]
fn every_key_is_in_a_described_table() {
    let described: usize = TABLES.iter().map(|(table, _)| keys_in(table).count()).sum();
    assert_eq!(described, KEYS.len());
    for (key, _) in EXAMPLES {
        assert!(KEYS.iter().any(|spec| spec.key == *key), "{key}");
    }
}

#[test]
fn the_example_file_is_valid() {
    load_valid(&generate_example());
}

/// `deploy/check.sh` checks the same with librdkafka.
#[test]
fn the_example_file_is_valid_without_its_comment_signs() {
    let directory = tempfile::tempdir().unwrap();
    for name in [
        "tls.crt",
        "tls.key",
        "admin-password",
        "kafka-password",
        "butlr-api-key",
        "butlr-password",
    ] {
        fs::write(directory.path().join(name), name).unwrap();
    }
    fs::write(directory.path().join("redis-url"), "redis://redis:6379").unwrap();
    let here = format!("{}/", directory.path().display());
    let text: String = generate_example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(entry)
                if entry.starts_with(|c: char| "[\"".contains(c) || c.is_ascii_lowercase()) =>
            {
                format!("{entry}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    load_valid(
        &text
            .replace("/run/secrets/", &here)
            .replace("/etc/butlr-bridge/", &here),
    );
}
