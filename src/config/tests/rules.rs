use super::*;

const KEY: &str = "[[auth.api_keys]]\nname = 'a'\nheader = 'x-a'\nvalue = '1'\n";

#[test]
fn ingest_beyond_loopback_needs_credentials() {
    for bind in ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080"] {
        let text = format!("[http]\nbind = '{bind}'\n");
        one_mistake(
            &text,
            "http.bind",
            "either give credentials (auth.api_keys or auth.basic), or bind to loopback, as in 127.0.0.1:8080",
        );
        good(&format!("{text}{KEY}"));
    }
    for bind in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        good(&format!("[http]\nbind = '{bind}'"));
    }
    // Credentials that are mistaken are not missing.
    one_mistake(
        "auth.api_key = []\n[http]\nbind = '0.0.0.0:1'",
        "auth.api_key",
        "did you mean api_keys?",
    );
}

#[test]
fn the_two_listeners_need_two_ports() {
    one_mistake(
        "[http]\nbind = '127.0.0.1:9464'",
        "admin.bind",
        "is taken by http.bind",
    );
    one_mistake(
        "[admin]\nbind = '0.0.0.0:8080'",
        "admin.bind",
        "is taken by http.bind",
    );
    good("http.bind = '127.0.0.1:0'\nadmin.bind = '127.0.0.1:0'");
    good("http.bind = '127.0.0.1:1'\nadmin.bind = '127.0.0.2:1'");
}

#[test]
fn tls_needs_both_files() {
    // A section that somebody began must not end as plain HTTP.
    assert_eq!(bad("[http.tls]").lines().count(), 2);
    let pem = file("pem");
    one_mistake(
        &format!("http.tls.key_file = {:?}", pem.path()),
        "http.tls.cert_file",
        "missing; TLS needs it next to key_file",
    );
    one_mistake(
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
    one_mistake(
        "[http]\nmax_body_bytes = '64KiB'",
        "http.max_event_bytes",
        "256KiB is more than http.max_body_bytes (64KiB)",
    );
    one_mistake(
        "[http]\nmax_in_flight_bytes = '512KiB'",
        "http.max_in_flight_bytes",
        "512KiB is less than one body of http.max_body_bytes (1MiB)",
    );
    one_mistake(
        "[http]\nmax_in_flight_events = 999",
        "http.max_in_flight_events",
        "999 is less than one array of http.max_events (1000)",
    );
    one_mistake(
        "[http]\nmax_event_bytes = '961KiB'",
        "http.max_event_bytes",
        "do not fit into librdkafka's message.max.bytes (1MB)",
    );
    good("[http]\nmax_event_bytes = 983616");
    one_mistake(
        "[http]\nmax_event_bytes = 983617",
        "http.max_event_bytes",
        "16KiB for key and headers",
    );
    good("http.max_event_bytes = '1MiB'\nkafka.properties.\"message.max.bytes\" = 2000000");
    one_mistake(
        "kafka.properties.\"message.max.bytes\" = 10000",
        "http.max_event_bytes",
        "kafka.properties.\"message.max.bytes\" (10kB)",
    );
    one_mistake(
        "[http]\nmax_event_bytes = 1",
        "http.max_event_bytes",
        "1B is out of bounds; allowed: 1KiB to 1GiB",
    );
}

#[test]
fn the_answer_comes_before_the_sender_gives_up() {
    one_mistake(
        "[http]\nsender_timeout = '2s'",
        "http.answer_within",
        "the sender has given up already",
    );
    good("[http]\nsender_timeout = '2001ms'");
    one_mistake(
        "[http]\nanswer_within = '99ms'",
        "http.answer_within",
        "99ms is out of bounds; allowed: 100ms to 1m",
    );
    one_mistake(
        "[http]\nanswer_within = '61s'",
        "http.answer_within",
        "1m 1s is out of bounds",
    );
    // A mistaken value does not break further rules.
    one_mistake(
        "[http]\nanswer_within = 'x'\nsender_timeout = '1s'",
        "http.answer_within",
        "not a duration",
    );
}

#[test]
fn lingering_leaves_time_for_the_broker() {
    for name in ["linger.ms", "queue.buffering.max.ms"] {
        let key = format!("kafka.properties.\"{name}\"");
        good(&format!("{key} = 999.5"));
        one_mistake(&format!("{key} = 1000"), &key, "less than half of that");
    }
}

#[test]
fn properties_of_the_bridges_own_are_refused() {
    one_mistake(
        "kafka.properties.\"enable.idempotence\" = false",
        "kafka.properties.\"enable.idempotence\"",
        "not to be set here",
    );
    one_mistake(
        "kafka.properties.\"bootstrap.servers\" = 'a'",
        "kafka.properties.\"bootstrap.servers\"",
        "kafka.bootstrap_servers",
    );
    one_mistake(
        "kafka.properties.\"max.in.flight\" = 6",
        "kafka.properties.\"max.in.flight\"",
        "allowed: 1 to 5",
    );
    one_mistake(
        "kafka.properties.\"client.id\" = 'refused'",
        "kafka.properties.\"client.id\"",
        "Invalid value \"refused\"",
    );
    let file = file("1");
    one_mistake(
        &format!("kafka.secret_files.acks = {:?}", file.path()),
        "kafka.secret_files.acks",
        "not to be set here",
    );
}

#[test]
fn topics_have_names_of_their_own() {
    for (template, problem) in [
        ("{type}{type}", "must contain {type} once"),
        (
            "butlr/{type}",
            "\"butlr/detections\" is not the name of a topic",
        ),
        ("{Type}", "must contain {type} once"),
    ] {
        one_mistake(
            &format!("topics.template = '{template}'"),
            "topics.template",
            problem,
        );
    }
    one_mistake(
        &format!("topics.template = '{}{{type}}'", "a".repeat(230)),
        "topics.template",
        "1 to 249",
    );
    for name in ["", ".", "..", "a b"] {
        one_mistake(
            &format!("topics.types.TRAFFIC.name = '{name}'"),
            "topics.types.TRAFFIC.name",
            "is not the name of a topic",
        );
    }
    one_mistake(
        "topics.types.TRAFFIC.name = 'a.b'\ntopics.types.PIR_MOTION.name = 'a_b'",
        "topics.types.PIR_MOTION.name",
        "TRAFFIC and PIR_MOTION would share the topic \"a_b\"",
    );
    one_mistake(
        "topics.types.DETECTIONS.name = 'butlr.event.traffic.v1'",
        "topics.types.DETECTIONS.name",
        "DETECTIONS and TRAFFIC would share",
    );
}

#[test]
fn replicas_suffice() {
    one_mistake(
        "topics.replication_factor = 2\ntopics.min_insync_replicas = 3",
        "topics.min_insync_replicas",
        "3 is more than replication_factor (2)",
    );
    one_mistake(
        "topics.replication_factor = 3\ntopics.types.TRAFFIC.min_insync_replicas = 4",
        "topics.types.TRAFFIC.min_insync_replicas",
        "4 is more than",
    );
    one_mistake(
        "topics.min_insync_replicas = 2\ntopics.types.traffic.replication_factor = 1",
        "topics.types.TRAFFIC.min_insync_replicas",
        "2 is more than",
    );
    good("topics.min_insync_replicas = 2");
    one_mistake(
        "topics.replication_factor = 0",
        "topics.replication_factor",
        "allowed: 1 to 32767",
    );
    let told = bad(
        "[topics]\nreplication_factor = 1\nmin_insync_replicas = 2\ntypes.TRAFFIC.min_insync_replicas = 3",
    );
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn records_outlive_what_the_past_allows() {
    one_mistake(
        "topics.retention = '3d'",
        "topics.retention",
        "3days is not more than kafka.max_past (3days): Kafka counts from a record's timestamp",
    );
    one_mistake(
        "kafka.max_past = '8d'",
        "topics.retention",
        "not more than kafka.max_past (8days)",
    );
    one_mistake(
        "topics.types.TRAFFIC.retention = '1h'",
        "topics.types.TRAFFIC.retention",
        "1h is not more than",
    );
    one_mistake(
        "topics.retention = '0s'",
        "topics.retention",
        "out of bounds",
    );
    good("topics.retention = 'forever'\nkafka.max_past = '300d'");
    let told = bad("topics.retention = '1d'\ntopics.types.TRAFFIC.retention = '2d'");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn the_shutdown_has_time_left() {
    one_mistake(
        "shutdown.drain_delay = '10s'",
        "shutdown.drain_delay",
        "leaves nothing of shutdown.timeout (10s)",
    );
}

#[test]
fn redis_has_an_address_and_a_use() {
    one_mistake(
        "dedup.store = 'redis'",
        "dedup.redis_url",
        "missing; give redis_url or redis_url_file",
    );
    one_mistake(
        "dedup.redis_url = 'redis://host'",
        "dedup.redis_url",
        "is of no use while dedup.store is \"memory\"",
    );
    one_mistake(
        "dedup.store = 'disk'",
        "dedup.store",
        "\"disk\" is not known; allowed: memory, redis",
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
        good(&redis(url));
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
        let told = bad(&redis(url));
        assert!(
            told.starts_with("dedup.redis_url: is no such address"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn dedup_is_bounded() {
    one_mistake("dedup.max_ids = 10", "dedup.max_ids", "out of bounds");
    one_mistake("dedup.id_window = '0s'", "dedup.id_window", "out of bounds");
    one_mistake(
        "dedup.repeat = 'no'",
        "dedup.repeat",
        "\"no\" is not known; allowed: drop, tag, off",
    );
    one_mistake(
        "dedup.redelivery = 'off'",
        "dedup.redelivery",
        "\"off\" goes only together with repeat = \"off\"",
    );
    let prefix = |prefix: &str| {
        format!(
            "dedup.store = 'redis'\ndedup.redis_url = 'redis://h'\ndedup.redis_prefix = '{prefix}'"
        )
    };
    good(&prefix("staging:1"));
    one_mistake(&prefix("a b"), "dedup.redis_prefix", "is no prefix");
    assert!(good("dedup.repeat = 'off'").dedup.is_on());
    assert!(
        !good("dedup.repeat = 'off'\ndedup.redelivery = 'off'")
            .dedup
            .is_on()
    );
}

#[test]
fn credentials_can_be_told_apart() {
    let second = |name: &str, header: &str, value: &str| {
        format!("{KEY}[[auth.api_keys]]\nname = '{name}'\nheader = '{header}'\nvalue = '{value}'")
    };
    good(&second("b", "x-a", "2"));
    good(&second("b", "x-b", "1"));
    one_mistake(
        &second("a", "x-a", "2"),
        "auth.api_keys[1].name",
        "a is taken by another credential",
    );
    one_mistake(
        &second("b", "X-A", "1"),
        "auth.api_keys[1]",
        "the same header and value as auth.api_keys[0]",
    );
    let basic = |name: &str, username: &str, password: &str| {
        format!(
            "{KEY}[[auth.basic]]\nname = '{name}'\nusername = '{username}'\npassword = '{password}'\n"
        )
    };
    one_mistake(&basic("a", "u", "p"), "auth.basic[0].name", "taken");
    one_mistake(
        &basic("b", "u:v", "p"),
        "auth.basic[0].username",
        "contains a colon",
    );
    one_mistake(&basic("b", "", "p"), "auth.basic[0].username", "empty");
    one_mistake(
        &format!(
            "{}[[auth.basic]]\nname = 'c'\nusername = 'u'\npassword = 'p'",
            basic("b", "u", "p")
        ),
        "auth.basic[1]",
        "as auth.basic[0]",
    );
}

#[test]
fn names_headers_and_values_are_plain() {
    let key = |name: &str, header: &str, value: &str| {
        format!("[[auth.api_keys]]\nname = {name:?}\nheader = {header:?}\nvalue = {value:?}")
    };
    good(&key(&"a".repeat(64), "authorization", "Bearer abc"));
    for name in ["", "a b", "é", &"a".repeat(65)] {
        one_mistake(&key(name, "x", "v"), "auth.api_keys[0].name", "not a name");
    }
    for header in ["", "a b", "x:", "é"] {
        one_mistake(
            &key("a", header, "v"),
            "auth.api_keys[0].header",
            "not the name of a header",
        );
    }
    for header in ["Host", "Content-Type", "Transfer-Encoding", "connection"] {
        one_mistake(
            &key("a", header, "v"),
            "auth.api_keys[0].header",
            "has a meaning of its own",
        );
    }
    for value in ["", " v", "v\n", "é"] {
        assert!(bad(&key("a", "x", value)).starts_with("auth.api_keys[0].value: "));
    }
}

#[test]
fn admin_credentials_are_whole() {
    one_mistake(
        "admin.username = 'a'",
        "admin.password",
        "missing; give password or password_file",
    );
    one_mistake("admin.password = 'a'", "admin.username", "missing");
    one_mistake(
        "admin.username = 'a:b'\nadmin.password = 'a'",
        "admin.username",
        "colon",
    );
}

#[test]
fn what_is_weak_is_warned_of() {
    let warned = |text: &str, warning: &str| {
        let warnings = good(&format!("spool.dir = '/spool'\n{text}")).warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(warning),
            "{warnings:?}"
        );
    };
    warned(
        "admin.bind = '0.0.0.0:9464'",
        "admin.bind: 0.0.0.0:9464 can be reached from other machines and has no credentials",
    );
    warned(&format!("http.bind = '0.0.0.0:1'\n{KEY}"), "without TLS");
    warned(
        "kafka.max_in_flight_per_topic = 300000",
        "one topic can stall the others",
    );
    warned(
        "kafka.max_in_flight_per_topic = 10",
        "a full array of one type",
    );
    assert_eq!(good("").warnings().len(), 1, "no spool");
    warned("shutdown.timeout = '1s'", "may cut requests off");
    warned("dedup.reading_window = '5m'", "5m is too short");
    warned(
        "dedup.store = 'redis'\ndedup.redis_url = 'redis://:p@host'",
        "dedup.redis_url: redis:// sends Redis' password in the clear",
    );
    warned("kafka.properties.\"compression.type\" = 'zstd'", "Flink");
    warned(
        "kafka.properties.\"security.protocol\" = 'SASL_PLAINTEXT'",
        "in the clear",
    );
    warned(
        "topics.types.TRAFFIC.min_insync_replicas = 1",
        "a single replica for TRAFFIC;",
    );
}

#[test]
fn the_spool_has_time_and_room() {
    good("spool.dir = '/spool'\nspool.max_bytes = '64MiB'");
    one_mistake(
        "spool.dir = '/spool'\nkafka.confirm_within = '2s'",
        "kafka.confirm_within",
        "leaves too little of http.answer_within (2s)",
    );
    one_mistake(
        "kafka.confirm_within = '1ms'",
        "kafka.confirm_within",
        "10ms to",
    );
    one_mistake("spool.dir = ''", "spool.dir", "is empty");
    one_mistake(
        "spool.max_bytes = '32MiB'",
        "spool.max_bytes",
        "less than two files",
    );
    one_mistake("spool.drain = 'fast'", "spool.drain", "ordered, concurrent");
    one_mistake("quarantine.keep = 'no'", "quarantine.keep", "true or false");
    one_mistake(
        "quarantine.answer = 'ok'",
        "quarantine.answer",
        "reject, accept",
    );
    one_mistake(
        "topics.quarantine = 'butlr_event_traffic_v1'",
        "topics.quarantine",
        "TRAFFIC would share",
    );
}
