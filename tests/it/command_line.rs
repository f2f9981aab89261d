//! The binary as an operator uses it: commands, exit codes, error messages, signals.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_event::EventType;
use serde_json::Value;

use crate::harness::{
    BridgeProcess, HttpRequest, HttpResponse, PATIENCE, agent, binary, eventually, minimal_event,
    read_records, trials, unique_ms,
};

trials! {
    "process": [
        help_and_version_exit_0,
        bad_usage_exits_2,
        check_config_reports_every_mistake_at_once,
        check_config_takes_a_good_configuration,
        check_config_suggests_the_key_that_was_meant,
        check_config_reads_the_certificate,
        check_config_asks_librdkafka,
        check_config_wants_to_know_the_brokers,
        the_example_configuration_is_good,
        the_environment_goes_over_the_file_and_flags_over_both,
        a_misspelt_variable_is_reported,
        serve_refuses_to_listen_beyond_loopback_without_credentials,
        serve_without_brokers_says_so,
        serve_reports_that_a_port_is_in_use,
        serve_starts_while_kafka_is_away_and_works_once_it_is_there,
        topics_without_kafka_exits_1,
        sigterm_ends_it_in_order_with_the_final_counters,
        a_second_signal_ends_it_at_once,
        json_logs_are_one_object_a_line,
        good_events_leave_no_line_at_info,
        a_flood_of_bad_requests_does_not_flood_the_log,
        dev_works_as_printed,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;

fn run_command(arguments: &[&str]) -> Output {
    binary().args(arguments).output().expect("it runs")
}

fn read_output(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// Fails the test unless the command exited with this code and printed all of these texts.
#[track_caller]
fn expect_exit(output: &Output, code: i32, texts: &[&str]) {
    let output_text = read_output(output);
    assert_eq!(output.status.code(), Some(code), "{output_text}");
    for text in texts {
        assert!(
            output_text.contains(text),
            "{text:?} is not in: {output_text}"
        );
    }
}

fn config_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn check_config(config: &str) -> Output {
    let file = config_file(config);
    run_command(&["check-config", "--config", file.path().to_str().unwrap()])
}

fn start_broker() -> EmbeddedKafka {
    let topics = EventType::ALL.map(|t| (format!("butlr.event.{}.v1", t.kebab_name()), 3));
    EmbeddedKafka::start(&topics).unwrap()
}

fn post(process: &BridgeProcess, body: impl AsRef<[u8]>) -> HttpResponse {
    let url = format!("http://{}/v1/events", process.ingest());
    HttpRequest::new("POST", &url).body(body).send(&agent())
}

fn readyz_status(process: &BridgeProcess) -> u16 {
    let url = format!("http://{}/readyz", process.admin());
    HttpRequest::new("GET", &url).send(&agent()).status
}

fn valid_event(id: &str) -> String {
    minimal_event(ROOM, id, unique_ms(), "room_1")
}

fn help_and_version_exit_0() {
    let commands = ["serve", "dev", "check-config", "topics"];
    expect_exit(&run_command(&["--help"]), 0, &commands);
    expect_exit(
        &run_command(&["--version"]),
        0,
        &[env!("CARGO_PKG_VERSION")],
    );
    for command in commands {
        expect_exit(&run_command(&[command, "--help"]), 0, &["Usage:"]);
    }
}

fn bad_usage_exits_2() {
    expect_exit(&run_command(&[]), 2, &["Usage:"]);
    expect_exit(&run_command(&["sevre"]), 2, &["serve"]);
    expect_exit(&run_command(&["serve", "--confg", "x"]), 2, &["--config"]);
    expect_exit(
        &run_command(&["serve", "--set", "http.bind"]),
        2,
        &["section.key=value"],
    );
    expect_exit(
        &run_command(&["serve", "--config", "/nowhere/bridge.toml"]),
        2,
        &["/nowhere/bridge.toml"],
    );
}

fn check_config_reports_every_mistake_at_once() {
    let output = check_config(
        r#"
        [http]
        bind = "everywhere"
        answer_within = "soon"
        max_events = 0
        colour = "blue"
        [kafka]
        timestamp = "later"
        [kafka.properties]
        acks = "1"
        "no.such.property" = "x"
        "linger.ms" = "long"
        [topics]
        template = "all-in-one"
        [[auth.api_keys]]
        name = "a"
        header = "x api key"
        value = "b"
        [log]
        level = "loud"
        "#,
    );
    let keys = [
        "http.bind",
        "http.answer_within",
        "http.max_events",
        "http.colour",
        "kafka.timestamp",
        "acks",
        "no.such.property",
        "linger.ms",
        "topics.template",
        "auth.api_keys[0].header",
        "log.level",
        "errors in the configuration",
    ];
    expect_exit(&output, 2, &keys);
    assert!(output.stdout.is_empty(), "errors go to standard error");
}

fn check_config_takes_a_good_configuration() {
    let output = check_config("[kafka]\nbootstrap_servers = \"kafka-1:9092,kafka-2:9092\"");
    let memory = "MiB of memory for 4000000 ids and 1000000 readings";
    expect_exit(&output, 0, &["good", "dedup: at most ", memory]);
    let off = "[dedup]\nredelivery = \"off\"\nrepeat = \"off\"";
    let output = check_config(&format!("[kafka]\nbootstrap_servers = \"k:9092\"\n{off}"));
    expect_exit(&output, 0, &["good"]);
    assert!(
        !read_output(&output).contains("dedup: "),
        "nothing is remembered"
    );
}

fn check_config_suggests_the_key_that_was_meant() {
    let output = check_config("[http]\nmax_event = 3\n[kafak]\nx = 1");
    expect_exit(
        &output,
        2,
        &["http.max_event", "max_events", "kafak", "kafka"],
    );
    expect_exit(&output, 2, &["did you mean"]);
}

fn check_config_asks_librdkafka() {
    let output = check_config(
        r#"[kafka]
           bootstrap_servers = "localhost:9092"
           properties = { "security.protocol" = "SASL_SSL", "ssl.ca.location" = "/no/such/ca.pem" }"#,
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        read_output(&output).contains("kafka.properties"),
        "{output:?}"
    );
}

fn check_config_wants_to_know_the_brokers() {
    let output = check_config("");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        read_output(&output).contains("kafka.bootstrap_servers"),
        "{output:?}"
    );
}

fn check_config_reads_the_certificate() {
    let no_certificate = config_file("hello");
    let path = no_certificate.path().display();
    let tls = format!("[http]\ntls = {{ cert_file = \"{path}\", key_file = \"{path}\" }}");
    expect_exit(&check_config(&tls), 2, &["http.tls.cert_file"]);
}

fn the_example_configuration_is_good() {
    let output = run_command(&["check-config", "--config", "deploy/butlr-bridge.toml"]);
    expect_exit(&output, 0, &["good"]);
}

fn the_environment_goes_over_the_file_and_flags_over_both() {
    // The configuration is invalid if sender_timeout is below answer_within, so the exit code shows
    // which value is in force.
    let file = config_file(
        "[http]\nanswer_within = \"5s\"\nsender_timeout = \"3s\"\n[kafka]\nbootstrap_servers = \"k:1\"",
    );
    let check = |env: Option<&str>, flag: Option<&str>| {
        let mut command = binary();
        command.args(["check-config", "--config"]).arg(file.path());
        if let Some(value) = env {
            command.env("BUTLR_BRIDGE__HTTP__ANSWER_WITHIN", value);
        }
        if let Some(value) = flag {
            command.args(["--set", &format!("http.answer_within={value}")]);
        }
        command.output().unwrap()
    };
    expect_exit(&check(None, None), 2, &["http.answer_within"]);
    expect_exit(&check(Some("1s"), None), 0, &[]);
    expect_exit(&check(Some("4s"), Some("1s")), 0, &[]);
    expect_exit(&check(Some("1s"), Some("4s")), 2, &["command line"]);
    expect_exit(
        &check(Some("often"), None),
        2,
        &["BUTLR_BRIDGE__HTTP__ANSWER_WITHIN"],
    );
}

fn a_misspelt_variable_is_reported() {
    let check = |name: &str| {
        binary()
            .arg("check-config")
            .env(name, "1s")
            .output()
            .unwrap()
    };
    expect_exit(
        &check("BUTLR_BRIDGE_HTTP_ANSWER_WITHIN"),
        2,
        &["BUTLR_BRIDGE__HTTP__ANSWER_WITHIN"],
    );
    expect_exit(
        &check("BUTLR_BRIDGE__HTTP__ANSWER_WITHEN"),
        2,
        &["answer_within"],
    );
}

fn serve_refuses_to_listen_beyond_loopback_without_credentials() {
    let kafka = "kafka.bootstrap_servers=127.0.0.1:1";
    for address in ["0.0.0.0:0", "[::]:0"] {
        let bind = format!("http.bind={address}");
        let output = run_command(&["serve", "--set", kafka, "--set", &bind]);
        expect_exit(&output, 2, &["http.bind", "credentials", "auth.api_keys"]);
    }
    // With credentials the bind address is accepted.
    let mut command = binary();
    command.env(
        "BUTLR_BRIDGE__AUTH__BASIC",
        r#"[{name="a",username="u",password="p"}]"#,
    );
    command.args(["serve", "--set", kafka, "--set", "http.bind=0.0.0.0:0"]);
    command.args(["--set", "admin.bind=127.0.0.1:0"]);
    let process = BridgeProcess::start(&mut command);
    assert!(process.ingest().ip().is_unspecified());
}

fn serve_without_brokers_says_so() {
    expect_exit(&run_command(&["serve"]), 2, &["kafka.bootstrap_servers"]);
    expect_exit(&run_command(&["topics"]), 2, &["kafka.bootstrap_servers"]);
}

fn serve_reports_that_a_port_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["http.bind", "admin.bind"] {
        let other = if key == "http.bind" {
            "admin.bind"
        } else {
            "http.bind"
        };
        let output = run_command(&[
            "serve",
            "--set",
            "kafka.bootstrap_servers=127.0.0.1:1",
            "--set",
            &format!("{key}={address}"),
            "--set",
            &format!("{other}=127.0.0.1:0"),
        ]);
        expect_exit(&output, 1, &[&address, key, "choose another"]);
    }
}

fn serve_starts_while_kafka_is_away_and_works_once_it_is_there() {
    let kafka = start_broker();
    kafka
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    let bootstrap = format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers());
    let process = BridgeProcess::serve(&[&bootstrap, "http.answer_within=300ms"]);
    assert_eq!(readyz_status(&process), 503);
    post(&process, valid_event("event_1")).expect_problem(503, "kafka_unconfirmed");
    kafka.with_cluster(|cluster| cluster.broker_up(1)).unwrap();
    eventually("ready", || (readyz_status(&process) == 200).then_some(()));
    eventually("events are stored", || {
        (post(&process, valid_event("event_2")).status == 200).then_some(())
    });
    process.wait_for("the log has the line", |output| {
        output.contains("Kafka is reachable").then_some(())
    });
}

fn topics_without_kafka_exits_1() {
    let start = Instant::now();
    let output = run_command(&["topics", "--set", "kafka.bootstrap_servers=127.0.0.1:1"]);
    expect_exit(&output, 1, &["cannot be reached"]);
    assert!(start.elapsed() < PATIENCE);
}

fn sigterm_ends_it_in_order_with_the_final_counters() {
    let kafka = start_broker();
    let bootstrap = format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers());
    let mut process =
        BridgeProcess::serve(&[&bootstrap, "shutdown.timeout=5s", "quarantine.keep=false"]);
    eventually("ready", || (readyz_status(&process) == 200).then_some(()));
    post(&process, valid_event("event_1")).expect(200);
    post(&process, valid_event("event_2")).expect(200);
    post(&process, "{}").expect(422);
    let start = Instant::now();
    process.signal("TERM");
    let ended = process.wait();
    assert_eq!(ended.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5) + Duration::from_secs(3));
    let output = process.output();
    let last = output.lines().rfind(|line| line.contains("ended"));
    let last = crate::harness::without_colours(last.expect("a last line"));
    for counter in ["received=3", "published=2", "refused=1", "balanced=true"] {
        assert!(last.contains(counter), "{counter} is not in: {last}");
    }
}

fn a_second_signal_ends_it_at_once() {
    let mut process = BridgeProcess::serve(&[
        "kafka.bootstrap_servers=127.0.0.1:1",
        "shutdown.drain_delay=40s",
        "shutdown.timeout=60s",
    ]);
    process.signal("TERM");
    eventually("the shutdown has begun", || {
        (readyz_status(&process) == 503).then_some(())
    });
    process.wait_for("the shutdown has begun", |output| {
        output.contains("shutting down").then_some(())
    });
    assert!(process.is_running());
    let start = Instant::now();
    process.signal("INT");
    assert_eq!(process.wait().code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

fn json_logs_are_one_object_a_line() {
    let mut command = binary();
    command.args([
        "serve",
        "--set",
        "log.format=json",
        "--set",
        "log.level=debug",
    ]);
    for setting in [
        "kafka.bootstrap_servers=127.0.0.1:1",
        "http.bind=127.0.0.1:0",
        "admin.bind=127.0.0.1:0",
        "quarantine.keep=false",
    ] {
        command.args(["--set", setting]);
    }
    let mut process = BridgeProcess::start(&mut command);
    let ingest = process.wait_for("the log contains the addresses", |output| {
        let line = output.lines().find(|l| l.contains("is listening"))?;
        let line: Value = serde_json::from_str(line).expect("JSON");
        Some(line["ingest"].as_str().expect("an address").to_owned())
    });
    let url = format!("http://{ingest}/v1/events");
    let request = HttpRequest::new("POST", &url).header("x-request-id", "trace-1");
    request.body("{").send(&agent()).expect(400);
    process.signal("TERM");
    process.wait();
    let output = process.output();
    let lines: Vec<Value> = output
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect();
    let refused = lines.iter().find(|l| l["message"] == "request refused");
    let refused = refused.expect("a line about the refused request");
    assert_eq!(refused["request_id"], "trace-1");
    assert_eq!(refused["code"], "not_json");
    assert_eq!(refused["status"], 400);
    let ended = lines.iter().find(|l| l["message"] == "ended");
    assert_eq!(ended.expect("the final counters")["received"], 1);
}

fn good_events_leave_no_line_at_info() {
    let kafka = start_broker();
    let bootstrap = format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers());
    let mut process = BridgeProcess::serve(&[&bootstrap]);
    eventually("ready", || (readyz_status(&process) == 200).then_some(()));
    process.wait_for("all topics are available", |output| {
        (output.matches("the topic is available").count() == 10).then_some(())
    });
    process.wait_for("the warning about several replicas is logged", |output| {
        output
            .contains("copies that reach different replicas are not detected")
            .then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    let before = process.output();
    for i in 0..50 {
        post(&process, valid_event(&format!("event_{i}"))).expect(200);
    }
    let after = process.output();
    let new = after.strip_prefix(&before).expect("it only grows");
    assert!(!new.contains("event"), "{new}");
    assert!(new.lines().count() < 10, "{new}");
    process.signal("TERM");
    process.wait();
}

fn a_flood_of_bad_requests_does_not_flood_the_log() {
    let mut process = BridgeProcess::serve(&[
        "kafka.bootstrap_servers=127.0.0.1:1",
        "quarantine.keep=false",
    ]);
    let url = format!("http://{}/v1/events", process.ingest());
    let agent = agent();
    let start = Instant::now();
    for _ in 0..300 {
        HttpRequest::new("POST", &url)
            .body("{")
            .send(&agent)
            .expect(400);
    }
    let seconds = start.elapsed().as_secs() as usize + 1;
    process.signal("TERM");
    process.wait();
    let lines = process.output().matches("request refused").count();
    assert!(
        (1..=seconds + 1).contains(&lines),
        "{lines} lines in {seconds} s"
    );
}

fn dev_works_as_printed() {
    let mut process = BridgeProcess::start(binary().args(["dev", "--duration", "5s"]));
    let printed = process.wait_for("the start message is printed", |output| {
        output.contains("Ctrl-C").then(|| output.to_owned())
    });
    let line = |start: &str| {
        let mut lines = printed.lines().map(str::trim);
        let line = lines.find(|l| l.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in {printed}"))
            .to_owned()
    };
    assert!(line("webhooks").contains("/v1/events"));
    assert!(line("metrics").contains("/metrics"));
    let curl = line("curl");
    let answered = eventually("the printed curl command gets a 200", || {
        let output = Command::new("sh")
            .args(["-c", &format!("{curl} -w '\\n%{{http_code}}'")])
            .env("NO_PROXY", "*")
            .env("no_proxy", "*")
            .output()
            .expect("sh");
        let output_text = read_output(&output);
        output_text.ends_with("\n200").then_some(output_text)
    });
    assert!(answered.contains("published"), "{answered}");
    let kcat = line("kcat");
    let mut words = kcat.split_whitespace();
    let mut after = |flag| {
        words
            .by_ref()
            .skip_while(|w| *w != flag)
            .nth(1)
            .unwrap()
            .to_owned()
    };
    let (bootstrap, topic) = (after("-b"), after("-t"));
    assert!(kcat.ends_with(r"-f '%k  %s\n'"), "{kcat}");
    let records = read_records(&bootstrap, &topic);
    assert!(
        records.iter().any(|r| r.text().contains("event_by_hand")),
        "{records:?}"
    );
    // Room counts come at full minutes, detections at once.
    let detections = topic.replace("room-occupancy", "detections");
    eventually("the simulated building sends events as well", || {
        (!read_records(&bootstrap, &detections).is_empty()).then_some(())
    });
    assert_eq!(process.wait().code(), Some(0));
    let output = process.output();
    let ticks = output.matches("events/s").count();
    assert!(
        (2..=7).contains(&ticks),
        "{ticks} lines, one a second: {output}"
    );
    assert!(output.contains("ended: "), "{output}");
    assert!(output.contains("0 refused"), "{output}");
}
