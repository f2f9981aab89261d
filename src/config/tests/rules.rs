use super::*;

const KEY: &str = "[[auth.api_keys]]\nname = 'a'\nheader = 'x-a'\nvalue = '1'\n";

#[test]
fn ingest_beyond_loopback_requires_credentials() {
    for bind in ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080"] {
        let text = format!("[http]\nbind = '{bind}'\n");
        assert_one_error(
            &text,
            "http.bind",
            "configure credentials (auth.api_keys or auth.basic), or bind to loopback, as in 127.0.0.1:8080",
        );
        load_valid(&format!("{text}{KEY}"));
    }
    for bind in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        load_valid(&format!("[http]\nbind = '{bind}'"));
    }
    // Credentials with an error are not missing.
    assert_one_error(
        "auth.api_key = []\n[http]\nbind = '0.0.0.0:1'",
        "auth.api_key",
        "did you mean api_keys?",
    );
}

#[test]
fn the_two_listeners_need_two_ports() {
    assert_one_error(
        "[http]\nbind = '127.0.0.1:9464'",
        "admin.bind",
        "is used by http.bind",
    );
    assert_one_error(
        "[admin]\nbind = '0.0.0.0:8080'",
        "admin.bind",
        "is used by http.bind",
    );
    load_valid("http.bind = '127.0.0.1:0'\nadmin.bind = '127.0.0.1:0'");
    load_valid("http.bind = '127.0.0.1:1'\nadmin.bind = '127.0.0.2:1'");
}

#[test]
fn tls_needs_both_files() {
    // An empty section must not fall back to plain HTTP.
    assert_eq!(load_errors("[http.tls]").lines().count(), 2);
    let pem = temp_file("pem");
    assert_one_error(
        &format!("http.tls.key_file = {:?}", pem.path()),
        "http.tls.cert_file",
        "missing; TLS needs it together with key_file",
    );
    assert_one_error(
        &format!(
            "http.tls = {{ key_file = {:?}, cert_file = '/' }}",
            pem.path()
        ),
        "http.tls.cert_file",
        "/ is a directory",
    );
}

#[test]
fn sizes_fit_into_each_other() {
    assert_one_error(
        "[http]\nmax_body_bytes = '64KiB'",
        "http.max_event_bytes",
        "256KiB is more than http.max_body_bytes (64KiB)",
    );
    assert_one_error(
        "[http]\nmax_in_flight_bytes = '512KiB'",
        "http.max_in_flight_bytes",
        "512KiB is less than one body of http.max_body_bytes (1MiB)",
    );
    assert_one_error(
        "[http]\nmax_in_flight_events = 999",
        "http.max_in_flight_events",
        "999 is less than one array of http.max_events (1000)",
    );
    assert_one_error(
        "[http]\nmax_event_bytes = '961KiB'",
        "http.max_event_bytes",
        "exceed librdkafka's message.max.bytes (1MB)",
    );
    load_valid("[http]\nmax_event_bytes = 983616");
    assert_one_error(
        "[http]\nmax_event_bytes = 983617",
        "http.max_event_bytes",
        "16KiB for key and headers",
    );
    load_valid("http.max_event_bytes = '1MiB'\nkafka.properties.\"message.max.bytes\" = 2000000");
    assert_one_error(
        "kafka.properties.\"message.max.bytes\" = 10000",
        "http.max_event_bytes",
        "kafka.properties.\"message.max.bytes\" (10kB)",
    );
    assert_one_error(
        "[http]\nmax_event_bytes = 1",
        "http.max_event_bytes",
        "1B is out of range; allowed: 1KiB to 1GiB",
    );
}

#[test]
fn the_response_comes_before_the_sender_gives_up() {
    assert_one_error(
        "[http]\nsender_timeout = '2s'",
        "http.answer_within",
        "2s is too long: the sender gives up after 2s",
    );
    load_valid("[http]\nsender_timeout = '2001ms'");
    assert_one_error(
        "[http]\nanswer_within = '99ms'",
        "http.answer_within",
        "99ms is out of range; allowed: 100ms to 1m",
    );
    assert_one_error(
        "[http]\nanswer_within = '61s'",
        "http.answer_within",
        "1m 1s is out of range",
    );
    // A value with an error violates no further rules.
    assert_one_error(
        "[http]\nanswer_within = 'x'\nsender_timeout = '1s'",
        "http.answer_within",
        "not a duration",
    );
}

#[test]
fn linger_leaves_time_for_the_broker() {
    for name in ["linger.ms", "queue.buffering.max.ms"] {
        let key = format!("kafka.properties.\"{name}\"");
        load_valid(&format!("{key} = 999.5"));
        assert_one_error(&format!("{key} = 1000"), &key, "less than half of that");
    }
}

#[test]
fn reserved_properties_are_refused() {
    assert_one_error(
        "kafka.properties.\"enable.idempotence\" = false",
        "kafka.properties.\"enable.idempotence\"",
        "must not be set",
    );
    assert_one_error(
        "kafka.properties.\"bootstrap.servers\" = 'a'",
        "kafka.properties.\"bootstrap.servers\"",
        "kafka.bootstrap_servers",
    );
    assert_one_error(
        "kafka.properties.\"max.in.flight\" = 6",
        "kafka.properties.\"max.in.flight\"",
        "allowed: 1 to 5",
    );
    assert_one_error(
        "kafka.properties.\"client.id\" = 'refused'",
        "kafka.properties.\"client.id\"",
        "Invalid value \"refused\"",
    );
    let file = temp_file("1");
    assert_one_error(
        &format!("kafka.secret_files.acks = {:?}", file.path()),
        "kafka.secret_files.acks",
        "must not be set",
    );
}

#[test]
fn topic_names_are_valid_and_unique() {
    for (template, problem) in [
        ("{type}{type}", "must contain {type} once"),
        (
            "butlr/{type}",
            "\"butlr/detections\" is not a valid topic name",
        ),
        ("{Type}", "must contain {type} once"),
    ] {
        assert_one_error(
            &format!("topics.template = '{template}'"),
            "topics.template",
            problem,
        );
    }
    assert_one_error(
        &format!("topics.template = '{}{{type}}'", "a".repeat(230)),
        "topics.template",
        "1 to 249",
    );
    for name in ["", ".", "..", "a b"] {
        assert_one_error(
            &format!("topics.types.TRAFFIC.name = '{name}'"),
            "topics.types.TRAFFIC.name",
            "is not a valid topic name",
        );
    }
    assert_one_error(
        "topics.types.TRAFFIC.name = 'a.b'\ntopics.types.PIR_MOTION.name = 'a_b'",
        "topics.types.PIR_MOTION.name",
        "TRAFFIC and PIR_MOTION would share the topic \"a_b\"",
    );
    assert_one_error(
        "topics.types.DETECTIONS.name = 'butlr.event.traffic.v1'",
        "topics.types.DETECTIONS.name",
        "DETECTIONS and TRAFFIC would share",
    );
}

#[test]
fn min_insync_replicas_is_at_most_replication_factor() {
    assert_one_error(
        "topics.replication_factor = 2\ntopics.min_insync_replicas = 3",
        "topics.min_insync_replicas",
        "3 is more than replication_factor (2)",
    );
    assert_one_error(
        "topics.replication_factor = 3\ntopics.types.TRAFFIC.min_insync_replicas = 4",
        "topics.types.TRAFFIC.min_insync_replicas",
        "4 is more than",
    );
    assert_one_error(
        "topics.min_insync_replicas = 2\ntopics.types.traffic.replication_factor = 1",
        "topics.types.TRAFFIC.min_insync_replicas",
        "2 is more than",
    );
    load_valid("topics.min_insync_replicas = 2");
    assert_one_error(
        "topics.replication_factor = 0",
        "topics.replication_factor",
        "allowed: 1 to 32767",
    );
    let errors = load_errors(
        "[topics]\nreplication_factor = 1\nmin_insync_replicas = 2\ntypes.TRAFFIC.min_insync_replicas = 3",
    );
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn max_future_has_a_range() {
    for value in ["0s", "999us"] {
        assert_one_error(
            &format!("kafka.max_future = '{value}'"),
            "kafka.max_future",
            "out of range",
        );
    }
}

#[test]
fn retention_is_longer_than_max_past() {
    assert_one_error(
        "topics.retention = '3d'",
        "topics.retention",
        "3d is not more than kafka.max_past (3d): retention counts from a record's timestamp",
    );
    assert_one_error(
        "kafka.max_past = '8d'",
        "topics.retention",
        "not more than kafka.max_past (8d)",
    );
    assert_one_error(
        "topics.types.TRAFFIC.retention = '1h'",
        "topics.types.TRAFFIC.retention",
        "1h is not more than",
    );
    assert_one_error(
        "topics.retention = '0s'",
        "topics.retention",
        "out of range",
    );
    load_valid("topics.retention = 'forever'\nkafka.max_past = '300d'");
    let errors = load_errors("topics.retention = '1d'\ntopics.types.TRAFFIC.retention = '2d'");
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn the_drain_delay_leaves_time_for_the_shutdown() {
    assert_one_error(
        "shutdown.drain_delay = '10s'",
        "shutdown.drain_delay",
        "leaves no time of shutdown.timeout (10s)",
    );
}

#[test]
fn redis_has_a_valid_address_and_is_used() {
    assert_one_error(
        "dedup.store = 'redis'",
        "dedup.redis_url",
        "missing; set redis_url or redis_url_file",
    );
    assert_one_error(
        "dedup.redis_url = 'redis://host'",
        "dedup.redis_url",
        "has no effect while dedup.store is \"memory\"",
    );
    assert_one_error(
        "dedup.store = 'disk'",
        "dedup.store",
        "\"disk\" is not allowed; use one of: memory, redis",
    );
    let redis = |url: &str| format!("dedup.store = 'redis'\ndedup.redis_url = '{url}'");
    for url in [
        "redis://host",
        "redis://host:6380/2",
        "redis://user:p@host",
        "redis://:p@h/1",
        "redis://[::1]:6379",
        "rediss://u:p%40@h:6380",
    ] {
        load_valid(&redis(url));
    }
    for url in [
        "host:6379",
        "http://host",
        "redis://",
        "redis://:6379",
        "redis://u:hunter2@/0",
        "redis://u:hunter/2@h",
        "rediss://u:hunter2@h/#insecure",
    ] {
        let errors = load_errors(&redis(url));
        assert!(
            errors.starts_with("dedup.redis_url: is not a valid address"),
            "{errors}"
        );
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn dedup_is_bounded() {
    assert_one_error("dedup.max_ids = 10", "dedup.max_ids", "out of range");
    assert_one_error("dedup.id_window = '0s'", "dedup.id_window", "out of range");
    assert_one_error(
        "dedup.repeat = 'no'",
        "dedup.repeat",
        "\"no\" is not allowed; use one of: drop, tag, off",
    );
    assert_one_error(
        "dedup.redelivery = 'off'",
        "dedup.redelivery",
        "\"off\" requires repeat = \"off\"",
    );
    let prefix = |prefix: &str| {
        format!(
            "dedup.store = 'redis'\ndedup.redis_url = 'redis://h'\ndedup.redis_prefix = '{prefix}'"
        )
    };
    load_valid(&prefix("staging:1"));
    assert_one_error(
        &prefix("a b"),
        "dedup.redis_prefix",
        "is not a valid prefix",
    );
    assert!(load_valid("dedup.repeat = 'off'").dedup.is_enabled());
    assert!(
        !load_valid("dedup.repeat = 'off'\ndedup.redelivery = 'off'")
            .dedup
            .is_enabled()
    );
}

#[test]
fn credentials_are_unique() {
    let second = |name: &str, header: &str, value: &str| {
        format!("{KEY}[[auth.api_keys]]\nname = '{name}'\nheader = '{header}'\nvalue = '{value}'")
    };
    load_valid(&second("b", "x-a", "2"));
    load_valid(&second("b", "x-b", "1"));
    assert_one_error(
        &second("a", "x-a", "2"),
        "auth.api_keys[1].name",
        "a is the name of another credential",
    );
    assert_one_error(
        &second("b", "X-A", "1"),
        "auth.api_keys[1]",
        "identical to auth.api_keys[0]",
    );
    let basic = |name: &str, username: &str, password: &str| {
        format!(
            "{KEY}[[auth.basic]]\nname = '{name}'\nusername = '{username}'\npassword = '{password}'\n"
        )
    };
    assert_one_error(
        &basic("a", "u", "p"),
        "auth.basic[0].name",
        "another credential",
    );
    assert_one_error(
        &basic("b", "u:v", "p"),
        "auth.basic[0].username",
        "contains a colon",
    );
    assert_one_error(&basic("b", "", "p"), "auth.basic[0].username", "empty");
    assert_one_error(
        &format!(
            "{}[[auth.basic]]\nname = 'c'\nusername = 'u'\npassword = 'p'",
            basic("b", "u", "p")
        ),
        "auth.basic[1]",
        "identical to auth.basic[0]",
    );
}

#[test]
fn names_headers_and_values_are_plain() {
    let key = |name: &str, header: &str, value: &str| {
        format!("[[auth.api_keys]]\nname = {name:?}\nheader = {header:?}\nvalue = {value:?}")
    };
    load_valid(&key(&"a".repeat(64), "authorization", "Bearer abc"));
    for name in ["", "a b", "é", &"a".repeat(65)] {
        assert_one_error(
            &key(name, "x", "v"),
            "auth.api_keys[0].name",
            "not a valid name",
        );
    }
    for header in ["", "a b", "x:", "é"] {
        assert_one_error(
            &key("a", header, "v"),
            "auth.api_keys[0].header",
            "not a valid header name",
        );
    }
    for header in ["Host", "Content-Type", "Transfer-Encoding", "connection"] {
        assert_one_error(
            &key("a", header, "v"),
            "auth.api_keys[0].header",
            "is used by HTTP",
        );
    }
    for value in ["", " v", "v\n", "é"] {
        assert!(load_errors(&key("a", "x", value)).starts_with("auth.api_keys[0].value: "));
    }
}

#[test]
fn admin_credentials_are_complete() {
    assert_one_error(
        "admin.username = 'a'",
        "admin.password",
        "missing; set password or password_file",
    );
    assert_one_error("admin.password = 'a'", "admin.username", "missing");
    assert_one_error(
        "admin.username = 'a:b'\nadmin.password = 'a'",
        "admin.username",
        "colon",
    );
}

#[test]
fn weak_settings_cause_warnings() {
    let assert_warning = |text: &str, warning: &str| {
        let warnings = load_valid(&format!("spool.dir = '/spool'\n{text}")).warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(warning),
            "{warnings:?}"
        );
    };
    assert_warning(
        "admin.bind = '0.0.0.0:9464'",
        "admin.bind: other machines can reach 0.0.0.0:9464, and it has no credentials",
    );
    assert_warning(&format!("http.bind = '0.0.0.0:1'\n{KEY}"), "has no TLS");
    assert_warning(
        "kafka.max_in_flight_per_topic = 300000",
        "one topic can stall the others",
    );
    assert_warning(
        "kafka.max_in_flight_per_topic = 10",
        "a full array of one event type",
    );
    assert_eq!(load_valid("").warnings().len(), 1, "no spool");
    assert_warning("shutdown.timeout = '1s'", "can interrupt requests");
    assert_warning("dedup.reading_window = '5m'", "5m is too short");
    assert_warning(
        "dedup.store = 'redis'\ndedup.redis_url = 'redis://:p@host'",
        "dedup.redis_url: redis:// sends the password for Redis unencrypted",
    );
    assert_warning("kafka.properties.\"compression.type\" = 'zstd'", "Flink");
    assert_warning(
        "kafka.properties.\"security.protocol\" = 'SASL_PLAINTEXT'",
        "unencrypted",
    );
    assert_warning(
        "topics.types.TRAFFIC.min_insync_replicas = 1",
        "a single replica for TRAFFIC;",
    );
}

#[test]
fn the_spool_has_enough_time_and_space() {
    load_valid("spool.dir = '/spool'\nspool.max_bytes = '64MiB'");
    assert_one_error(
        "spool.dir = '/spool'\nkafka.confirm_within = '2s'",
        "kafka.confirm_within",
        "leaves too little of http.answer_within (2s)",
    );
    assert_one_error(
        "kafka.confirm_within = '1ms'",
        "kafka.confirm_within",
        "10ms to",
    );
    assert_one_error("spool.dir = ''", "spool.dir", "is empty");
    assert_one_error(
        "spool.max_bytes = '32MiB'",
        "spool.max_bytes",
        "less than two files",
    );
    assert_one_error("spool.drain = 'fast'", "spool.drain", "ordered, concurrent");
    assert_one_error("quarantine.keep = 'no'", "quarantine.keep", "true or false");
    assert_one_error(
        "quarantine.answer = 'ok'",
        "quarantine.answer",
        "reject, accept",
    );
    assert_one_error(
        "topics.quarantine = 'butlr_event_traffic_v1'",
        "topics.quarantine",
        "TRAFFIC and the quarantine would share",
    );
}
