use super::*;
use crate::config::ValueOrigin;
use toml::Value;

#[test]
fn all_errors_of_a_file_are_reported_at_once() {
    let text = r#"
        colour = "red"
        [http]
        bnid = "127.0.0.1:1"
        max_events = "many"
        max_connections = 0
        max_body_bytes = "1 megabyte"
        answer_within = 2
        keep_alive = "soon"
        tls = { cert_file = "/nowhere/cert.pem" }
        [admin]
        bind = "localhost:9464"
        [kafka]
        bootstrap_servers = "SSL://a:1"
        timestamp = "mine"
        max_future = "2h"
        [kafka.properties]
        acks = 1
        sasl.username = "x"
        "no.such.property" = "1"
        [topics]
        template = "events"
        partitions = 0
        [topics.types.ROOMS]
        partitions = 1
        [[auth.api_keys]]
        name = "a b"
        header = "content-length"
        [log]
        level = 3
    "#;
    let found = load_with(text, &[]).unwrap_err();
    let mut errors: Vec<(&str, &str)> = found
        .iter()
        .map(|error| (error.key.as_str(), error.problem.as_str()))
        .collect();
    errors.sort_unstable();
    let mut expected = [
        (
            "colour",
            "unknown key; known keys here: http, admin, kafka, topics, auth, dedup, spool, quarantine, log, shutdown",
        ),
        ("http.bnid", "unknown key; did you mean bind?"),
        ("http.max_events", "a whole number is expected, not a text"),
        (
            "http.max_connections",
            "0 is out of range; allowed: 1 to 1000000",
        ),
        ("http.max_body_bytes", "\"1 megabyte\" is not a size"),
        ("http.answer_within", "2 has no unit; add one, as in \"2s\""),
        (
            "http.keep_alive",
            "\"soon\" is not a duration; write it as in",
        ),
        ("http.tls.cert_file", "/nowhere/cert.pem cannot be read"),
        (
            "http.tls.key_file",
            "missing; TLS needs it together with cert_file",
        ),
        (
            "admin.bind",
            "\"localhost:9464\" is not an IP address with a port, such as 127.0.0.1:8080",
        ),
        (
            "kafka.bootstrap_servers",
            "entry 1 (\"SSL://a:1\") has a scheme",
        ),
        (
            "kafka.timestamp",
            "\"mine\" is not allowed; use one of: event, received",
        ),
        (
            "kafka.max_future",
            "2h is too long: a broker refuses the whole batch",
        ),
        ("kafka.properties.acks", "must not be set: a 2xx promises"),
        (
            "kafka.properties.sasl",
            "one value is expected, not a table; write the name of a property in quotes",
        ),
        (
            "kafka.properties.\"no.such.property\"",
            "librdkafka refuses it: No such configuration property",
        ),
        ("topics.template", "\"events\" must contain {type} once"),
        (
            "topics.partitions",
            "0 is out of range; allowed: 1 to 10000",
        ),
        (
            "topics.types.ROOMS",
            "unknown event type; known types: DETECTIONS, TRAFFIC",
        ),
        ("auth.api_keys[0].name", "not a valid name; use 1 to 64"),
        ("auth.api_keys[0].header", "content-length is used by HTTP"),
        ("auth.api_keys[0].value", "missing; set value or value_file"),
        (
            "log.level",
            "a text in quotes is expected, not a whole number",
        ),
    ];
    expected.sort_unstable();
    assert_eq!(errors.len(), expected.len(), "{}", format_errors(&found));
    for (error, expected) in errors.iter().zip(expected) {
        assert!(
            error.0 == expected.0 && error.1.contains(expected.1),
            "reported {error:?}\nexpected {expected:?}"
        );
    }
}

#[test]
fn an_error_names_its_origin() {
    let file = temp_file("[http]\nworkers = \"x\"");
    let sources = ConfigSources {
        file: Some(file.path().to_owned()),
        env: vec![
            ("BUTLR_BRIDGE__HTTP__BIND".to_owned(), "x".to_owned()),
            (
                "BUTLR_BRIDGE__AUTH__BASIC".to_owned(),
                "[{name='n',username='u'}]".to_owned(),
            ),
        ],
        flags: vec![
            ("http.max_events".to_owned(), Value::Integer(0)),
            ("http.max_evnts".to_owned(), Value::Integer(0)),
        ],
    };
    let errors = format_errors(&load(&sources, &check_property).unwrap_err());
    assert!(errors.contains("http.workers: a whole number"), "{errors}");
    assert!(
        errors.contains("http.bind (environment BUTLR_BRIDGE__HTTP__BIND): \"x\" is not an IP"),
        "{errors}"
    );
    assert!(
        errors.contains("auth.basic[0].password (environment BUTLR_BRIDGE__AUTH__BASIC): missing"),
        "{errors}"
    );
    assert!(
        errors.contains("http.max_events (command line): 0 is out of range"),
        "{errors}"
    );
    assert!(
        errors.contains("http.max_evnts (command line): unknown key; did you mean max_events?"),
        "{errors}"
    );
}

#[test]
fn a_key_is_suggested_for_an_unknown_one() {
    for (text, expected) in [
        ("[htpp]", "htpp: unknown key; did you mean http?"),
        (
            "[kafka]\nboostrap_servers = 'a'",
            "kafka.boostrap_servers: unknown key; did you mean bootstrap_servers?",
        ),
        (
            "[http]\nmax_past = '1d'",
            "http.max_past: unknown key; did you mean kafka.max_past?",
        ),
        (
            "[log]\nx = 1",
            "log.x: unknown key; known keys here: format, level",
        ),
        (
            "[[auth.basic]]\nname='a'\nusername='b'\npassword='c'\nrealm='d'",
            "auth.basic[0].realm: unknown key; known keys here: name,",
        ),
        (
            "[topics.types.room_occupanci]",
            "topics.types.room_occupanci: unknown event type; did you mean ROOM_OCCUPANCY?",
        ),
        (
            "[http]\n\"tls.cert_file\" = 'a'",
            "http.\"tls.cert_file\": unknown key",
        ),
    ] {
        assert!(
            load_errors(text).contains(expected),
            "{}",
            load_errors(text)
        );
    }
}

#[test]
fn names_of_variables_are_checked() {
    for (name, expected) in [
        (
            "BUTLR_BRIDGE_HTTP__BIND",
            "environment BUTLR_BRIDGE_HTTP__BIND: separate the levels of a key by two underscores; did you mean BUTLR_BRIDGE__HTTP__BIND?",
        ),
        (
            "BUTLR_BRIDGE_KAFKA_BOOTSTRAP_SERVERS",
            "did you mean BUTLR_BRIDGE__KAFKA__BOOTSTRAP_SERVERS?",
        ),
        (
            "BUTLR_BRIDGE_HTTP_TLS_CERTFILE",
            "did you mean BUTLR_BRIDGE__HTTP__TLS__CERT_FILE?",
        ),
        (
            "BUTLR_BRIDGE_AUTH_APIKEYS",
            "did you mean BUTLR_BRIDGE__AUTH__API_KEYS?",
        ),
        ("BUTLR_BRIDGE_SOMETHING", "as in BUTLR_BRIDGE__HTTP__BIND"),
        (
            "BUTLR_BRIDGE__HTTP__BNID",
            "http.bnid (environment BUTLR_BRIDGE__HTTP__BNID): unknown key; did you mean bind?",
        ),
        ("BUTLR_BRIDGE__HTTP__BIND__X", "unknown key"),
        ("BUTLR_BRIDGE__HTTP____BIND", "unknown key"),
        ("BUTLR_BRIDGE__", "unknown key"),
        (
            "BUTLR_BRIDGE__KAFKA__PROPERTIES__SASL_USERNAME",
            "property names contain dots",
        ),
        (
            "BUTLR_BRIDGE__AUTH__API_KEYS__0__VALUE",
            "auth.api_keys (environment BUTLR_BRIDGE__AUTH__API_KEYS__0__VALUE): give an array as a whole",
        ),
    ] {
        let errors = load_errors_with("", &[(name, "v")]);
        assert!(
            errors.contains(expected) && errors.lines().count() == 1,
            "{name}: {errors}"
        );
    }
}

#[test]
fn invalid_toml_is_one_error_with_its_position() {
    let found = load_with("[http]\n  bind = ?\n", &[]).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .problem
            .starts_with("not valid TOML at line 2, column 10: "),
        "{}",
        format_errors(&found)
    );
    assert!(
        load_errors("[http]\nbind = '127.0.0.1:1'\nbind = '127.0.0.1:2'")
            .contains("line 3, column 1: duplicate key")
    );
}

#[test]
fn an_unreadable_file_is_named() {
    let load_file = |path: &str| {
        load(
            &ConfigSources {
                file: Some(path.into()),
                ..ConfigSources::default()
            },
            &check_property,
        )
        .unwrap_err()
    };
    let found = load_file("/nowhere/bridge.toml");
    assert_eq!(
        (found.len(), found[0].key.as_str()),
        (1, "/nowhere/bridge.toml")
    );
    assert!(
        found[0]
            .problem
            .starts_with("the configuration file cannot be read: ")
    );
    assert!(load_file("/")[0].problem.contains("cannot be read"));
}

#[test]
fn errors_elsewhere_are_reported_even_without_the_file() {
    let errors = load_errors_with(
        "[http",
        &[("BUTLR_BRIDGE__HTTP__X", "1"), ("BUTLR_BRIDGE_X", "1")],
    );
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn wrong_shapes_are_described_by_type_only() {
    for (text, expected) in [
        (
            "http = 'a'",
            "http: a table is expected, such as { … }, not a text",
        ),
        (
            "auth.api_keys = 'a'",
            "auth.api_keys: an array of tables is expected, such as [[auth.api_keys]], not a text",
        ),
        (
            "auth.api_keys = ['a']",
            "auth.api_keys[0]: a table is expected",
        ),
        (
            "[http]\nbind = ['a']",
            "http.bind: one value is expected, not an array",
        ),
        (
            "[log]\nlevel = 2020-01-01",
            "log.level: a text in quotes is expected, not a date",
        ),
        ("[[topics]]", "topics: a table is expected"),
        (
            "[http]\nmax_body_bytes = true",
            "http.max_body_bytes: a size such as \"64KiB\" is expected, not a boolean",
        ),
        (
            "[http]\nkeep_alive = true",
            "http.keep_alive: a duration such as \"3s\" is expected, not a boolean",
        ),
        (
            "[http]\nkeep_alive = 1.5",
            "http.keep_alive: 1.5 has no unit",
        ),
    ] {
        assert_eq!(
            load_errors(text).lines().count(),
            1,
            "{}",
            load_errors(text)
        );
        assert!(
            load_errors(text).starts_with(expected),
            "{}",
            load_errors(text)
        );
    }
}

#[test]
fn items_keep_their_index_next_to_an_invalid_item() {
    let errors = load_errors("auth.basic = [1, {name = 'a', username = 'b'}]");
    assert!(
        errors.contains("auth.basic[0]: a table")
            && errors.contains("auth.basic[1].password: missing"),
        "{errors}"
    );
}

#[test]
fn two_spellings_of_one_type_are_an_error() {
    assert_one_error(
        "[topics.types.ROOM_OCCUPANCY_1M]\n[topics.types.room_occupancy_1min]",
        "topics.types.room_occupancy_1min",
        "ROOM_OCCUPANCY_1MIN is given twice",
    );
}

#[test]
fn invalid_inline_toml_is_an_error() {
    let errors = load_errors_with(
        "",
        &[(
            "BUTLR_BRIDGE__AUTH__API_KEYS",
            "[{name='a' header='s3cret'}]",
        )],
    );
    assert!(errors.starts_with("auth.api_keys (environment BUTLR_BRIDGE__AUTH__API_KEYS): write a table or an array as inline TOML; not valid TOML at line 1, column "), "{errors}");
    assert!(!errors.contains("s3cret"));
    let errors = load_errors_with("", &[("BUTLR_BRIDGE__AUTH__API_KEYS", "{name='a'}")]);
    assert!(
        errors.contains("an array of tables is expected"),
        "{errors}"
    );
    let errors = load_errors_with("", &[("BUTLR_BRIDGE__HTTP__BIND", "\u{fffd}")]);
    assert!(errors.contains("not valid UTF-8"), "{errors}");
}

#[test]
fn bootstrap_servers_are_required_only_on_demand() {
    let error = load_valid("").require_bootstrap_servers().unwrap_err();
    assert_eq!(
        (error.key.as_str(), error.origin.clone()),
        ("kafka.bootstrap_servers", ValueOrigin::File)
    );
    assert!(
        error
            .to_string()
            .starts_with("kafka.bootstrap_servers: missing; list the brokers")
    );
}
