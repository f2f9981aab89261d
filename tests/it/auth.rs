//! Authentication: several credentials at once, rejection before the body is read, secrets that
//! stay secret.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpRequest, HttpResponse, TestBridge, agent, eventually,
    minimal_event, read_response, toml, trials, unique_ms, write_head, write_request,
};

trials! {
    "http": [
        every_credential_is_valid_at_the_same_time,
        a_wrong_or_missing_credential_is_401,
        the_body_of_a_stranger_is_not_read,
        strangers_are_turned_away_from_every_event_route,
        requests_are_counted_by_credential,
        credentials_that_are_read_again_take_effect_without_a_restart,
        a_connection_does_not_outlive_its_credential,
        a_reload_does_not_open_an_exposed_listener,
    ],
    "process": [
        no_secret_is_ever_revealed,
        sighup_reads_the_secrets_files_again,
        a_broken_configuration_at_sighup_changes_nothing,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;

fn valid_event() -> String {
    minimal_event(ROOM, "event_1", unique_ms(), "room_1")
}

fn basic_auth(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

/// Returns a setup with two keys in one header, one key in another, and two basic credentials.
fn authenticated_setup() -> BridgeSetup {
    BridgeSetup::embedded()
        .set(
            "auth.api_keys",
            toml(
                r#"[{name="old", header="x-api-key", value="alpha-key"},
                    {name="new", header="x-api-key", value="beta-key"},
                    {name="other", header="X-Token", value="gamma-key"}]"#,
            ),
        )
        .set(
            "auth.basic",
            toml(
                r#"[{name="vendor", username="butlr", password="pass:word"},
                    {name="second", username="butlr", password="another"}]"#,
            ),
        )
}

#[track_caller]
fn send_with_header(bridge: &TestBridge, header: &str, value: &str) -> HttpResponse {
    let request = bridge.request("POST", "/v1/events").header(header, value);
    request.body(valid_event()).send()
}

fn every_credential_is_valid_at_the_same_time() {
    let bridge = authenticated_setup().start();
    let pairs = [basic_auth("butlr:pass:word"), basic_auth("butlr:another")];
    let lower = pairs[0].replace("Basic", "basic");
    for (header, value) in [
        ("x-api-key", "alpha-key"),
        ("x-api-key", "beta-key"),
        ("X-API-Key", "beta-key"),
        ("x-token", "gamma-key"),
        ("authorization", &pairs[0]),
        ("authorization", &pairs[1]),
        ("authorization", &lower),
    ] {
        send_with_header(&bridge, header, value).expect(200);
    }
    // One valid credential is enough.
    let request = bridge.request("POST", "/v1/events");
    let request = request
        .header("x-api-key", "stale")
        .header("x-token", "gamma-key");
    request.body(valid_event()).send().expect(200);
}

fn a_wrong_or_missing_credential_is_401() {
    let bridge = authenticated_setup().start();
    let wrong = [
        basic_auth("butlr:wrong"),
        basic_auth("other:another"),
        basic_auth("butlr"),
        basic_auth(""),
    ];
    for (header, value) in [
        ("x-api-key", "gamma-key"),
        ("x-api-key", "alpha-ke"),
        ("x-api-key", "alpha-key2"),
        ("x-api-key", "ALPHA-KEY"),
        ("x-api-key", ""),
        ("x-token", "alpha-key"),
        ("authorization", "alpha-key"),
        ("authorization", "Bearer alpha-key"),
        ("authorization", "Basic"),
        ("authorization", "Basic %%%"),
        ("authorization", &wrong[0]),
        ("authorization", &wrong[1]),
        ("authorization", &wrong[2]),
        ("authorization", &wrong[3]),
        ("x-unrelated", "alpha-key"),
    ] {
        let response = send_with_header(&bridge, header, value);
        response.expect_problem(401, "unauthorized");
        let challenge = response.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert!(!response.text().contains("alpha"), "{}", response.text());
    }
    bridge
        .send(valid_event())
        .expect_problem(401, "unauthorized");
    assert!(bridge.records(ROOM).is_empty());
    assert_eq!(bridge.metric_sum("butlr_bridge_received_total", ""), 0.0);
}

fn the_body_of_a_stranger_is_not_read() {
    let bridge = authenticated_setup().start();
    let mut stream = bridge.connect();
    let headers = [("content-length", "1000000"), ("x-api-key", "wrong")];
    write_head(&mut stream, &headers);
    // The response arrives although no byte of the body was sent.
    let response = bridge.read_response(&mut stream);
    response.expect_problem(401, "unauthorized");
    let mut stream = bridge.connect();
    let headers = [("content-length", "1000000"), ("expect", "100-continue")];
    write_head(&mut stream, &headers);
    let mut response = read_response(&mut stream).expect("a response");
    if response.status == 100 {
        // The HTTP layer sends 100 before it calls the bridge.
        response = read_response(&mut stream).expect("a response");
    }
    response.expect_problem(401, "unauthorized");
    bridge.count_response(&response);
}

fn strangers_are_turned_away_from_every_event_route() {
    let bridge = authenticated_setup().start();
    for path in ["/v1/events", "/v1/events/TRAFFIC", "/v1/events/nonsense"] {
        bridge.post(path, "[]").expect_problem(401, "unauthorized");
    }
}

fn requests_are_counted_by_credential() {
    let bridge = authenticated_setup().start();
    send_with_header(&bridge, "x-api-key", "alpha-key").expect(200);
    send_with_header(&bridge, "x-api-key", "beta-key").expect(200);
    send_with_header(&bridge, "x-api-key", "beta-key").expect(200);
    send_with_header(&bridge, "authorization", &basic_auth("butlr:another")).expect(200);
    send_with_header(&bridge, "x-api-key", "nobody's").expect(401);
    bridge.send(valid_event()).expect(401);
    bridge.send(valid_event()).expect(401);
    for (credential, result, count) in [
        ("old", "accepted", 1.0),
        ("new", "accepted", 2.0),
        ("other", "accepted", 0.0),
        ("vendor", "accepted", 0.0),
        ("second", "accepted", 1.0),
        ("unknown", "rejected", 1.0),
        ("none", "rejected", 2.0),
    ] {
        let series = format!(
            "butlr_bridge_auth_requests_total{{credential=\"{credential}\",result=\"{result}\"}}"
        );
        assert_eq!(bridge.metric(&series), count, "{series}");
    }
    let names = bridge.status()["credentials"].clone();
    assert_eq!(
        names,
        serde_json::json!(["old", "new", "other", "vendor", "second"])
    );
}

fn credentials_that_are_read_again_take_effect_without_a_restart() {
    let bridge = authenticated_setup().start();
    send_with_header(&bridge, "x-api-key", "alpha-key").expect(200);
    let keys = toml(
        r#"[{name="new", header="x-api-key", value="beta-key"},
            {name="newest", header="x-api-key", value="delta-key"}]"#,
    );
    bridge.reload(&[("auth.api_keys", keys)]);
    eventually("the new key is valid", || {
        (send_with_header(&bridge, "x-api-key", "delta-key").status == 200).then_some(())
    });
    send_with_header(&bridge, "x-api-key", "alpha-key").expect_problem(401, "unauthorized");
    send_with_header(&bridge, "x-token", "gamma-key").expect_problem(401, "unauthorized");
    send_with_header(&bridge, "x-api-key", "beta-key").expect(200);
    send_with_header(&bridge, "authorization", &basic_auth("butlr:pass:word")).expect(200);
}

fn a_reload_does_not_open_an_exposed_listener() {
    let bridge = authenticated_setup().set("http.bind", "0.0.0.0:0").start();
    send_with_header(&bridge, "x-api-key", "alpha-key").expect(200);
    // This configuration is valid, because its bind address is loopback. The listener in use is
    // not.
    bridge.reload(&[
        ("http.bind", "127.0.0.1:0".into()),
        ("auth.api_keys", toml("[]")),
        ("auth.basic", toml("[]")),
    ]);
    // Applied after the first reload, so the first has had its effect.
    let keys = toml(r#"[{name="new", header="x-api-key", value="beta-key"}]"#);
    for _ in 0..5 {
        bridge
            .send(valid_event())
            .expect_problem(401, "unauthorized");
        send_with_header(&bridge, "x-api-key", "alpha-key").expect(200);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bridge.reload(&[("http.bind", "127.0.0.1:0".into()), ("auth.api_keys", keys)]);
    eventually("the next reload is applied", || {
        (send_with_header(&bridge, "x-api-key", "alpha-key").status == 401).then_some(())
    });
}

fn a_connection_does_not_outlive_its_credential() {
    let bridge = authenticated_setup().start();
    let mut stream = bridge.connect();
    let mut post = || {
        write_request(&mut stream, &[("x-api-key", "alpha-key")], &valid_event());
        bridge.read_response(&mut stream).status
    };
    assert_eq!(post(), 200);
    let keys = toml(r#"[{name="new", header="x-api-key", value="beta-key"}]"#);
    bridge.reload(&[("auth.api_keys", keys)]);
    eventually("the new key is valid", || {
        (send_with_header(&bridge, "x-api-key", "beta-key").status == 200).then_some(())
    });
    assert_eq!(post(), 401);
}

/// Secrets that appear nowhere else, also in their encoded form.
const SECRETS: [&str; 8] = [
    "secretkeyone",
    "secretkeytwo",
    "secretpassone",
    "secretpasstwo",
    "secretadmin",
    "secretkafka",
    "secretpem",
    "secretofastranger",
];

fn write_file(dir: &std::path::Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn no_secret_is_ever_revealed() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| write_file(dir.path(), name, &format!("{secret}\n"));
    let config = format!(
        r#"
        [http]
        bind = "127.0.0.1:0"
        answer_within = "300ms"
        [admin]
        bind = "127.0.0.1:0"
        username = "operator"
        password_file = "{admin}"
        [log]
        level = "trace"
        [kafka]
        # Nothing that would let anybody log in: attempts fail, and that is logged, too.
        bootstrap_servers = "127.0.0.1:1"
        [kafka.properties]
        "security.protocol" = "SASL_PLAINTEXT"
        "sasl.mechanism" = "PLAIN"
        "sasl.username" = "bridge"
        "ssl.key.password" = "secretpem"
        [kafka.secret_files]
        "sasl.password" = "{kafka}"
        [[auth.api_keys]]
        name = "one"
        header = "x-api-key"
        value = "secretkeyone"
        [[auth.api_keys]]
        name = "two"
        header = "x-api-key"
        value_file = "{key}"
        [[auth.basic]]
        name = "first"
        username = "butlr"
        password = "secretpassone"
        [[auth.basic]]
        name = "second"
        username = "butlr"
        password_file = "{pass}"
        "#,
        admin = file("admin", "secretadmin"),
        kafka = file("kafka", "secretkafka"),
        key = file("key", "secretkeytwo"),
        pass = file("pass", "secretpasstwo"),
    );
    let config = write_file(dir.path(), "bridge.toml", &config);
    let mut process =
        BridgeProcess::start(crate::harness::binary().args(["serve", "--config", &config]));
    let agent = agent();
    let mut outputs = Vec::new();
    let url = format!("http://{}/v1/events", process.ingest());
    let admin = format!("http://{}", process.admin());
    let mut round = |accepted: u16| {
        for (header, value, status) in [
            ("x-api-key", "secretkeyone".to_owned(), accepted),
            ("x-api-key", "secretkeytwo".to_owned(), accepted),
            ("authorization", basic_auth("butlr:secretpassone"), accepted),
            ("authorization", basic_auth("butlr:secretpasstwo"), accepted),
            ("x-api-key", "secretofastranger".to_owned(), 401),
            ("authorization", basic_auth("butlr:secretofastranger"), 401),
        ] {
            let request = HttpRequest::new("POST", &url).header(header, &value);
            let response = request.body(valid_event()).send(&agent);
            assert_eq!(response.status, status, "{}", response.text());
            outputs.push(format!("{:?} {}", response.headers, response.text()));
        }
        for path in ["/status", "/", "/metrics", "/readyz"] {
            for pair in ["operator:secretadmin", "operator:secretofastranger"] {
                let request = HttpRequest::new("GET", &format!("{admin}{path}"));
                let response = request
                    .header("authorization", &basic_auth(pair))
                    .send(&agent);
                outputs.push(format!("{:?} {}", response.headers, response.text()));
            }
        }
    };
    round(503);
    process.signal("HUP");
    process.wait_for("the credentials are reloaded", |output| {
        output.contains("credentials reloaded").then_some(())
    });
    round(503);
    // A configuration error next to a secret.
    let broken = std::fs::read_to_string(&config).unwrap();
    let broken = broken.replace("name = \"one\"", "name = \"two\"\nvalu = \"secretkeyone\"");
    std::fs::write(&config, broken).unwrap();
    process.signal("HUP");
    process.wait_for("the mistake is reported", |output| {
        output.contains("not reloaded").then_some(())
    });
    process.signal("TERM");
    assert!(process.wait().success());

    let output = process.output();
    assert!(
        output.contains("request refused"),
        "the log contains the expected lines: {output}"
    );
    outputs.push(output);
    for secret in SECRETS {
        let on_the_wire = [
            secret.to_owned(),
            STANDARD.encode(format!("butlr:{secret}")),
            STANDARD.encode(format!("operator:{secret}")),
        ];
        for text in &outputs {
            for form in &on_the_wire {
                assert!(!text.contains(form), "{secret} is shown in {text}");
            }
        }
    }
    for name in ["\"one\"", "\"second\""] {
        assert!(
            outputs.iter().any(|text| text.contains(name)),
            "names are shown"
        );
    }
}

fn sighup_reads_the_secrets_files_again() {
    let dir = tempfile::tempdir().unwrap();
    let key = write_file(dir.path(), "key", "first-key\n");
    let keys = format!("[{{name=\"a\",header=\"x-api-key\",value_file=\"{key}\"}}]");
    let mut command = crate::harness::binary();
    command
        .env("BUTLR_BRIDGE__AUTH__API_KEYS", keys)
        .arg("serve");
    for setting in [
        "http.bind=127.0.0.1:0",
        "admin.bind=127.0.0.1:0",
        "kafka.bootstrap_servers=127.0.0.1:1",
        "http.answer_within=200ms",
        "quarantine.keep=false",
    ] {
        command.args(["--set", setting]);
    }
    let mut process = BridgeProcess::start(&mut command);
    let url = format!("http://{}/v1/events", process.ingest());
    let agent = agent();
    let status = |key: &str| {
        let request = HttpRequest::new("POST", &url).header("x-api-key", key);
        request.body("{}").send(&agent).status
    };
    assert_eq!((status("first-key"), status("second-key")), (422, 401));
    write_file(dir.path(), "key", "second-key\n");
    assert_eq!(status("second-key"), 401, "not before the signal");
    process.signal("HUP");
    eventually("the new key is valid", || {
        (status("second-key") == 422).then_some(())
    });
    assert_eq!(status("first-key"), 401);
    process.signal("TERM");
    assert!(process.wait().success());
}

fn a_broken_configuration_at_sighup_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        [http]
        bind = "127.0.0.1:0"
        [quarantine]
        keep = false
        [admin]
        bind = "127.0.0.1:0"
        [kafka]
        bootstrap_servers = "127.0.0.1:1"
        [[auth.api_keys]]
        name = "a"
        header = "x-api-key"
        value = "first-key"
    "#;
    let config = write_file(dir.path(), "bridge.toml", text);
    let mut process =
        BridgeProcess::start(crate::harness::binary().args(["serve", "--config", &config]));
    let url = format!("http://{}/v1/events", process.ingest());
    let agent = agent();
    let status = |key: &str| {
        let request = HttpRequest::new("POST", &url).header("x-api-key", key);
        request.body("{}").send(&agent).status
    };
    assert_eq!(status("first-key"), 422);
    let broken = text
        .replace("first-key", "second-key")
        .replace("[http]", "[http]\nworker = 1");
    write_file(dir.path(), "bridge.toml", &broken);
    process.signal("HUP");
    process.wait_for("the mistake is reported", |output| {
        (output.contains("not reloaded") && output.contains("http.worker")).then_some(())
    });
    assert_eq!((status("first-key"), status("second-key")), (422, 401));
    std::thread::sleep(Duration::from_millis(100));
    assert!(process.is_running());
    process.signal("TERM");
    assert!(process.wait().success());
}
