use super::*;
use crate::config::{LogFormat, TimestampMode};
use butlr_event::EventType;
use secrecy::ExposeSecret;
use std::time::Duration;
use toml::Value;
use tracing::Level;

#[test]
fn without_sources_the_defaults_apply() {
    let config = load(&ConfigSources::default(), &check_property).unwrap();
    assert_eq!(config.http.bind, "127.0.0.1:8080".parse().unwrap());
    assert!(config.http.workers >= 1);
    assert_eq!(
        (
            config.http.max_body_bytes,
            config.http.max_event_bytes,
            config.http.max_events
        ),
        (1 << 20, 256 << 10, 1000)
    );
    assert_eq!(
        (config.http.answer_within, config.http.sender_timeout),
        (Duration::from_secs(2), None)
    );
    assert_eq!(
        (config.http.header_timeout, config.http.body_timeout),
        (Duration::from_secs(5), Duration::from_secs(5))
    );
    assert_eq!(
        (config.http.keep_alive, config.http.max_connections),
        (Duration::from_secs(75), 10_000)
    );
    assert_eq!(
        (
            config.http.max_in_flight_events,
            config.http.max_in_flight_bytes
        ),
        (100_000, 256 << 20)
    );
    assert!(config.http.tls.is_none());
    assert_eq!(config.admin.bind, "127.0.0.1:9464".parse().unwrap());
    assert!(config.admin.credentials.is_none());
    assert_eq!(
        (
            config.kafka.bootstrap_servers.as_deref(),
            config.kafka.timestamp
        ),
        (None, TimestampMode::Event)
    );
    assert_eq!(
        (config.kafka.max_future, config.kafka.max_past),
        (Duration::from_secs(60), Duration::from_secs(3 * 86_400))
    );
    assert_eq!(
        (
            config.kafka.max_in_flight_per_topic,
            config.kafka.away_after
        ),
        (10_000, Duration::from_secs(10))
    );
    assert!(config.kafka.properties.is_empty());
    let topic = config.topics.for_type(EventType::RoomOccupancy1Min);
    assert_eq!(topic.name, "butlr.event.room-occupancy-1min.v1");
    assert_eq!(
        (
            topic.partitions,
            topic.replication_factor,
            topic.min_insync_replicas
        ),
        (6, None, None)
    );
    assert_eq!(topic.retention, Some(Duration::from_secs(7 * 86_400)));
    assert!(config.auth.is_empty());
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Text, Level::INFO)
    );
    assert_eq!(
        (config.shutdown.drain_delay, config.shutdown.timeout),
        (Duration::ZERO, Duration::from_secs(10))
    );
    let [warning] = config.warnings().try_into().expect("one warning");
    assert!(
        warning.contains("spool.dir: there is no spool"),
        "{warning}"
    );
    assert_eq!(config.kafka.confirm_within, Duration::from_secs(1));
    assert!(config.quarantine.keep && config.spool.dir.is_none());
}

#[test]
fn a_typical_file_loads() {
    let (cert, key) = (temp_file("cert"), temp_file("key"));
    let config = load_valid(&format!(
        r#"
        [http]
        bind = "0.0.0.0:8443"
        max_body_bytes = "2MiB"
        max_event_bytes = 65536
        sender_timeout = "5s"
        tls = {{ cert_file = {:?}, key_file = {:?} }}
        [kafka]
        bootstrap_servers = "kafka-1:9092, kafka-2:9092"
        timestamp = "received"
        [kafka.properties]
        "sasl.username" = "bridge"
        "linger.ms" = 0.5
        "message.max.bytes" = 500000
        "socket.keepalive.enable" = true
        [topics]
        replication_factor = 3
        min_insync_replicas = 2
        retention = "30d"
        [topics.types.DETECTIONS]
        partitions = 24
        retention = "4d"
        [topics.types.pir_motion]
        name = "motion"
        retention = "forever"
        [[auth.api_keys]]
        name = "butlr"
        header = "X-Api-Key"
        value = "abc"
        [log]
        format = "json"
        level = "debug"
        [shutdown]
        drain_delay = "3s"
        "#,
        cert.path(),
        key.path()
    ));
    assert_eq!(config.http.tls.as_ref().unwrap().key_file, key.path());
    assert_eq!(
        config.require_bootstrap_servers(),
        Ok("kafka-1:9092,kafka-2:9092")
    );
    assert_eq!(config.auth.api_keys[0].header, "x-api-key");
    let properties: Vec<(&str, &str)> = config
        .kafka
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    assert_eq!(
        properties,
        [
            ("linger.ms", "0.5"),
            ("message.max.bytes", "500000"),
            ("sasl.username", "bridge"),
            ("socket.keepalive.enable", "true")
        ]
    );
    let detections = config.topics.for_type(EventType::Detections);
    assert_eq!(
        (detections.partitions, detections.replication_factor),
        (24, Some(3))
    );
    assert_eq!(detections.retention, Some(Duration::from_secs(4 * 86_400)));
    let motion = config.topics.for_type(EventType::PirMotion);
    assert_eq!(
        (motion.name.as_str(), motion.retention, motion.partitions),
        ("motion", None, 6)
    );
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, Level::DEBUG)
    );
}

#[test]
fn each_layer_overrides_the_one_before() {
    let file = temp_file(
        "[http]\nmax_events = 1\nmax_connections = 1\nworkers = 1\n[log]\nformat = \"json\"",
    );
    let env = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sources = ConfigSources {
        file: Some(file.path().to_owned()),
        env: vec![
            env("BUTLR_BRIDGE__HTTP__MAX_CONNECTIONS", " 2 "),
            env("BUTLR_BRIDGE__HTTP__WORKERS", "2"),
            env("BUTLR_BRIDGE__LOG__LEVEL", "warn"),
            env("BUTLR_BRIDGE__SHUTDOWN__TIMEOUT", "1m"),
            env("BUTLR_BRIDGE__HTTP__MAX_BODY_BYTES", "2097152"),
            env("HOME", "/root"),
            env("BUTLR_BRIDGE_TEST_KAFKA", "localhost:9092"),
            env("BUTLR_BRIDGE_SERVICE_HOST", "10.0.0.1"),
            env("BUTLR_BRIDGE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ],
        flags: vec![
            ("http.workers".to_owned(), Value::Integer(3)),
            (
                "kafka.bootstrap_servers".to_owned(),
                Value::String("b:1".to_owned()),
            ),
            (
                "kafka.max_in_flight_per_topic".to_owned(),
                Value::String("7".to_owned()),
            ),
        ],
    };
    let config = load(&sources, &check_property)
        .unwrap_or_else(|errors| panic!("{}", format_errors(&errors)));
    assert_eq!(
        (
            config.http.max_events,
            config.http.max_connections,
            config.http.workers
        ),
        (1, 2, 3)
    );
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, Level::WARN)
    );
    assert_eq!(
        (config.shutdown.timeout, config.http.max_body_bytes),
        (Duration::from_secs(60), 2 << 20)
    );
    assert_eq!(
        (
            config.require_bootstrap_servers(),
            config.kafka.max_in_flight_per_topic
        ),
        (Ok("b:1"), 7)
    );
}

#[test]
fn tables_from_the_environment_merge_and_arrays_replace() {
    let text = r#"
        [kafka.properties]
        "sasl.username" = "file"
        "client.id" = "file"
        [[auth.api_keys]]
        name = "a"
        header = "x-a"
        value = "1"
        [topics.types.ROOM_OCCUPANCY_1MIN]
        partitions = 3
        retention = "9d"
    "#;
    let env = [
        (
            "BUTLR_BRIDGE__KAFKA__PROPERTIES",
            r#"{"sasl.username"="env", "linger.ms"=2}"#,
        ),
        (
            "BUTLR_BRIDGE__AUTH__API_KEYS",
            r#" [{name="b",header="x-b",value="2"}] "#,
        ),
        (
            "BUTLR_BRIDGE__TOPICS__TYPES__ROOM_OCCUPANCY_1M__PARTITIONS",
            "4",
        ),
        ("BUTLR_BRIDGE__SHUTDOWN__TIMEOUT", "7s"),
        (
            "BUTLR_BRIDGE__SHUTDOWN",
            r#"{timeout = "8s", drain_delay = "1s"}"#,
        ),
    ];
    let config =
        load_with(text, &env).unwrap_or_else(|errors| panic!("{}", format_errors(&errors)));
    let property = |name: &str| config.kafka.properties[name].expose_secret();
    assert_eq!(
        (
            property("sasl.username"),
            property("client.id"),
            property("linger.ms")
        ),
        ("env", "file", "2")
    );
    assert_eq!(config.auth.api_keys.len(), 1);
    assert_eq!(config.auth.api_keys[0].name, "b");
    let topic = config.topics.for_type(EventType::RoomOccupancy1Min);
    assert_eq!(
        (topic.partitions, topic.retention),
        (4, Some(Duration::from_secs(9 * 86_400)))
    );
    // The more specific variable wins.
    assert_eq!(
        (config.shutdown.timeout, config.shutdown.drain_delay),
        (Duration::from_secs(7), Duration::from_secs(1))
    );
}

#[test]
fn a_text_from_the_environment_is_used_as_it_is() {
    let env = [
        ("BUTLR_BRIDGE__ADMIN__USERNAME", "\"quoted\""),
        ("BUTLR_BRIDGE__ADMIN__PASSWORD", "12345"),
        ("BUTLR_BRIDGE__TOPICS__TEMPLATE", "{type}"),
    ];
    let config = load_with("", &env).unwrap_or_else(|errors| panic!("{}", format_errors(&errors)));
    let credentials = config.admin.credentials.unwrap();
    assert_eq!(
        (
            credentials.username.as_str(),
            credentials.password.expose_secret()
        ),
        ("\"quoted\"", "12345")
    );
    assert_eq!(config.topics.for_type(EventType::Traffic).name, "traffic");
}

#[test]
fn a_table_on_the_command_line_is_inline_toml() {
    let load_flag = |key: &str, value: &str| {
        let sources = ConfigSources {
            flags: vec![(key.to_owned(), toml::Value::String(value.to_owned()))],
            ..ConfigSources::default()
        };
        load(&sources, &|_, _| Ok(()))
    };
    let config = load_flag("kafka.properties", r#"{ "linger.ms" = "300" }"#).expect("good");
    let linger = config.kafka.properties["linger.ms"].expose_secret();
    assert_eq!(linger, "300");
    let errors = load_flag("kafka.properties", "linger.ms=300").expect_err("not a table");
    let text = format_errors(&errors);
    assert!(text.contains("inline TOML"), "{text}");
}
