//! The admin listener: metrics, probes, status, and access to them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use butlr_event::EventType;

use crate::harness::{
    BridgeSetup, KafkaBackend, agent, clock_ms, eventually, minimal_event, trials, unique_ms,
};

trials! {
    "admin": [
        every_series_of_the_ten_types_is_there_from_the_start,
        an_event_moves_the_metrics_of_its_type_only,
        requests_are_counted_by_status_and_rejections_by_code,
        every_metric_has_a_help_text_and_the_prefix,
        livez_says_alive_whatever_kafka_does,
        readyz_says_503_until_kafka_was_reached,
        readyz_says_503_while_kafka_is_away_for_long_and_recovers,
        readyz_stays_ready_while_the_bridge_is_idle,
        status_shows_what_an_operator_needs,
        status_and_page_need_the_credentials_that_are_configured,
        beyond_loopback_without_credentials_only_metrics_and_probes_are_served,
        beyond_loopback_with_credentials_all_is_served,
        the_admin_listener_takes_no_events,
    ],
}

const TRAFFIC: EventType = EventType::Traffic;

fn valid_event(event_type: EventType) -> String {
    minimal_event(event_type, "event_1", unique_ms(), "space_1")
}

fn every_series_of_the_ten_types_is_there_from_the_start() {
    let bridge = BridgeSetup::embedded().start();
    let metrics = bridge.metrics();
    let has = |series: &str| {
        let line = format!("\nbutlr_bridge_{series} 0\n");
        assert!(metrics.contains(&line), "{series} is not there at 0");
    };
    for event_type in EventType::ALL {
        let name = event_type.name();
        has(&format!("received_total{{type=\"{name}\"}}"));
        for outcome in [
            "published",
            "duplicate",
            "spooled",
            "quarantined",
            "refused",
        ] {
            has(&format!(
                "events_total{{outcome=\"{outcome}\",type=\"{name}\"}}"
            ));
        }
        for reason in ["future", "past"] {
            has(&format!(
                "timestamps_replaced_total{{reason=\"{reason}\",type=\"{name}\"}}"
            ));
        }
        has(&format!("event_age_seconds_count{{type=\"{name}\"}}"));
        has(&format!(
            "last_received_timestamp_seconds{{type=\"{name}\"}}"
        ));
        has(&format!("last_event_time_seconds{{type=\"{name}\"}}"));
        let topic = bridge.topic(event_type);
        has(&format!(
            "publish_duration_seconds_count{{topic=\"{topic}\"}}"
        ));
    }
    has("received_total{type=\"unknown\"}");
    has("events_total{outcome=\"refused\",type=\"unknown\"}");
    for code in [200, 202, 400, 401, 404, 405, 408, 413, 415, 422, 503] {
        has(&format!("requests_total{{code=\"{code}\"}}"));
    }
    for code in [
        "unauthorized",
        "invalid_event",
        "not_json",
        "topic_missing",
        "kafka_unconfirmed",
    ] {
        has(&format!("rejections_total{{code=\"{code}\"}}"));
    }
    for outcome in ["published", "refused"] {
        has(&format!(
            "request_duration_seconds_count{{outcome=\"{outcome}\"}}"
        ));
    }
    for gauge in ["in_flight_events", "in_flight_bytes", "connections"] {
        has(gauge);
    }
    has("kafka_producer_replacements_total");
    has("certificate_expiry_timestamp_seconds");
    assert!(metrics.contains("butlr_bridge_build_info{"), "{metrics}");
}

fn an_event_moves_the_metrics_of_its_type_only() {
    let bridge = BridgeSetup::embedded().start();
    let before = clock_ms() as f64 / 1000.0;
    let ten_seconds_ago = clock_ms() - 10_000;
    bridge
        .send(minimal_event(
            TRAFFIC,
            "event_1",
            ten_seconds_ago,
            "space_1",
        ))
        .expect(200);
    let of = |name: &str, label: &str| bridge.metric(&format!("butlr_bridge_{name}{{{label}}}"));
    let traffic = "type=\"TRAFFIC\"";
    assert_eq!(of("received_total", traffic), 1.0);
    assert_eq!(
        of("events_total", "outcome=\"published\",type=\"TRAFFIC\""),
        1.0
    );
    assert_eq!(of("event_age_seconds_count", traffic), 1.0);
    let age = of("event_age_seconds_sum", traffic);
    assert!((10.0..40.0).contains(&age), "{age}");
    let received = of("last_received_timestamp_seconds", traffic);
    assert!((before..before + 30.0).contains(&received), "{received}");
    assert_eq!(
        of("last_event_time_seconds", traffic),
        ten_seconds_ago as f64 / 1000.0
    );
    let topic = format!("topic=\"{}\"", bridge.topic(TRAFFIC));
    assert_eq!(of("publish_duration_seconds_count", &topic), 1.0);
    assert_eq!(bridge.metric_sum("butlr_bridge_received_total", ""), 1.0);
    assert_eq!(
        bridge.metric_sum("butlr_bridge_event_age_seconds_count", ""),
        1.0
    );
}

fn requests_are_counted_by_status_and_rejections_by_code() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event(TRAFFIC)).expect(200);
    bridge.send("{").expect(400);
    bridge.send("[7,8]").expect(422);
    bridge.post("/nowhere", "").expect(404);
    let requests =
        |code: u16| bridge.metric(&format!("butlr_bridge_requests_total{{code=\"{code}\"}}"));
    let rejections =
        |code: &str| bridge.metric(&format!("butlr_bridge_rejections_total{{code=\"{code}\"}}"));
    assert_eq!([200, 400, 422, 404].map(requests), [1.0; 4]);
    assert_eq!(
        ["not_json", "not_found", "invalid_event"].map(rejections),
        [1.0, 1.0, 2.0]
    );
    assert_eq!(
        bridge.metric("butlr_bridge_received_total{type=\"unknown\"}"),
        3.0
    );
}

fn every_metric_has_a_help_text_and_the_prefix() {
    let bridge = BridgeSetup::embedded().start();
    let metrics = bridge.metrics();
    let names = metrics.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    let mut own = 0;
    for name in names.filter_map(|rest| rest.split(' ').next()) {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name}");
        if name.starts_with("butlr_bridge_") {
            own += 1;
        } else {
            assert!(name.starts_with("process_"), "{name}");
        }
    }
    assert!(own > 25, "{own} metrics");
}

fn livez_says_alive_whatever_kafka_does() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Address("127.0.0.1:1".into()))
        .without_waiting()
        .start();
    assert_eq!(bridge.get_admin("/livez").status, 200);
    assert_eq!(bridge.get_admin("/readyz").status, 503);
}

fn readyz_says_503_until_kafka_was_reached() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "300ms")
        .without_waiting()
        .prepare_broker(|kafka| {
            kafka
                .with_cluster(|cluster| cluster.broker_down(1))
                .unwrap()
        })
        .start();
    let response = bridge.get_admin("/readyz");
    response.expect(503);
    assert!(response.text().contains("Kafka"), "{}", response.text());
    assert_eq!(bridge.status()["ready"], false);
    bridge
        .send(valid_event(TRAFFIC))
        .expect_problem(503, "kafka_unconfirmed");
    assert_eq!(bridge.metric("butlr_bridge_kafka_up"), 0.0);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_up(1))
        .unwrap();
    bridge.wait_until_ready();
    eventually("events are stored", || {
        (bridge.send(valid_event(TRAFFIC)).status == 200).then_some(())
    });
    eventually("the gauge has changed", || {
        (bridge.metric("butlr_bridge_kafka_up") == 1.0).then_some(())
    });
}

fn readyz_says_503_while_kafka_is_away_for_long_and_recovers() {
    let bridge = BridgeSetup::embedded()
        .set("kafka.away_after", "3s")
        .set("http.answer_within", "300ms")
        .start();
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    let text = eventually("/readyz returns 503", || {
        let response = bridge.get_admin("/readyz");
        (response.status == 503).then(|| response.text())
    });
    assert!(text.contains("unreachable"), "{text}");
    let ago = bridge.status()["kafka"]["last_contact_seconds_ago"].clone();
    assert!(ago.as_f64().unwrap() >= 3.0, "{ago}");
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_up(1))
        .unwrap();
    bridge.wait_until_ready();
}

fn readyz_stays_ready_while_the_bridge_is_idle() {
    let bridge = BridgeSetup::embedded()
        .set("kafka.away_after", "3s")
        .start();
    for _ in 0..45 {
        bridge.get_admin("/readyz").expect(200);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn status_shows_what_an_operator_needs() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event(TRAFFIC)).expect(200);
    bridge.send("{}").expect(422);
    let status = bridge.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["ready"], true);
    assert_eq!(status["ledger"]["received"], 2);
    assert_eq!(status["ledger"]["published"], 1);
    assert_eq!(status["ledger"]["refused"], 1);
    assert_eq!(
        status["limits"]["events"]["limit"],
        bridge.config.http.max_in_flight_events
    );
    let types = status["types"].as_array().unwrap();
    assert_eq!(types.len(), 11);
    let traffic = &types[TRAFFIC.index()];
    assert_eq!(traffic["type"], "TRAFFIC");
    assert_eq!(traffic["topic"], bridge.topic(TRAFFIC));
    assert_eq!(traffic["published"], 1);
    assert_eq!(traffic["topic_state"], "available");
    let ago = traffic["last_received_seconds_ago"].as_f64().unwrap();
    assert!((0.0..30.0).contains(&ago), "{ago}");
    let page = bridge.get_admin("/");
    page.expect(200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(page.header("content-security-policy").is_some());
}

fn basic_auth(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn status_and_page_need_the_credentials_that_are_configured() {
    let bridge = BridgeSetup::embedded()
        .set("admin.username", "operator")
        .set("admin.password", "open-sesame")
        .start();
    for path in ["/status", "/"] {
        let response = bridge.get_admin(path);
        response.expect(401);
        assert!(response.header("www-authenticate").is_some());
        for (pair, status) in [
            ("operator:open-sesame", 200),
            ("operator:wrong", 401),
            ("x:open-sesame", 401),
        ] {
            let request = bridge
                .admin_request(path)
                .header("authorization", &basic_auth(pair));
            request.send(&agent()).expect(status);
        }
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        bridge.get_admin(path).expect(200);
    }
}

fn beyond_loopback_without_credentials_only_metrics_and_probes_are_served() {
    let bridge = BridgeSetup::embedded()
        .set("admin.bind", "0.0.0.0:0")
        .start();
    for path in ["/metrics", "/livez", "/readyz"] {
        bridge.get_admin(path).expect(200);
    }
    for path in ["/status", "/"] {
        bridge.get_admin(path).expect(404);
    }
}

fn beyond_loopback_with_credentials_all_is_served() {
    let bridge = BridgeSetup::embedded()
        .set("admin.bind", "0.0.0.0:0")
        .set("admin.username", "operator")
        .set("admin.password", "open-sesame")
        .start();
    for path in ["/status", "/"] {
        bridge.get_admin(path).expect(401);
        let request = bridge.admin_request(path);
        let request = request.header("authorization", &basic_auth("operator:open-sesame"));
        request.send(&agent()).expect(200);
    }
}

fn the_admin_listener_takes_no_events() {
    let bridge = BridgeSetup::embedded().start();
    let url = format!("http://{}/v1/events", bridge.admin);
    let request = crate::harness::HttpRequest::new("POST", &url).body(valid_event(TRAFFIC));
    request.send(&agent()).expect(404);
    assert!(bridge.records(TRAFFIC).is_empty());
}
