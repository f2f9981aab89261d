//! The texts that people and programs read, word for word: `--help` of every command, problem bodies, `/status` and the
//! simulator's report. `INSTA_UPDATE=always cargo test --test it -- snapshots` accepts what changed.

use butlr_event::EventType;
use insta::assert_snapshot;
use serde_json::Value;

use crate::harness::{BridgeSetup, TestBridge, binary, eventually, trials};

trials! {
    "snapshots": [
        help_of_every_command,
        problem_bodies,
        status_of_a_fresh_bridge,
        report_of_the_simulator,
    ],
}

/// Commands as the command line names them, found by descending through `--help`.
fn collect_help(path: &[&str], pages: &mut String) {
    let output = binary()
        .args(path)
        .arg("--help")
        .env("COLUMNS", "100")
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("help is UTF-8");
    pages.push_str(&format!("==== butlr-bridge {}\n{text}\n", path.join(" ")));
    let listed = text
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    let listed = listed.split("\n\n").next().unwrap_or_default();
    for line in listed.lines() {
        let is_entry = line.starts_with("  ") && !line.starts_with("   ");
        let Some(name) = line.split_whitespace().next().filter(|_| is_entry) else {
            continue;
        };
        if name != "help" {
            collect_help(&[path, &[name]].concat(), pages);
        }
    }
}

fn help_of_every_command() {
    let mut pages = String::new();
    collect_help(&[], &mut pages);
    assert_snapshot!("help", pages);
}

fn problem_bodies() {
    let bridge = TestBridge::start(
        BridgeSetup::embedded()
            .set("http.max_body_bytes", 4096)
            .set("http.max_event_bytes", 2048),
    );
    let too_large = "x".repeat(5000);
    let cases: [(&str, &str); 9] = [
        ("/v1/events", ""),
        ("/v1/events", "{"),
        ("/v1/events", "42"),
        ("/v1/events", "[]"),
        (
            "/v1/events",
            r#"{"id":"","type":"NOISE","timestamp":-1,"version":"v2"}"#,
        ),
        (
            "/v1/events",
            r#"[{"id":"a","type":"PIR_MOTION","timestamp":1,"version":"v1","metadata":{}}]"#,
        ),
        (
            "/v1/events/traffic",
            r#"{"id":"a","type":"PIR_MOTION","timestamp":1,"version":"v1","metadata":{"room_id":"r"}}"#,
        ),
        ("/v1/events", &too_large),
        ("/v1/nothing", "{}"),
    ];
    let mut text = String::new();
    for (path, body) in cases {
        let answer = bridge.post(path, body);
        let shown: String = body.chars().take(100).collect();
        let mut problem = answer.json();
        if let Some(id) = problem.get_mut("request_id") {
            *id = "<id>".into();
        }
        let problem = serde_json::to_string_pretty(&problem).expect("JSON");
        text.push_str(&format!(
            "==== POST {path}\n{shown}\n---- {}\n{problem}\n\n",
            answer.status
        ));
    }
    assert_snapshot!("problems", text);
}

/// Replaces the values that differ from run to run: numbers, and texts with digits in them.
fn mask(value: &mut Value) {
    match value {
        Value::Number(_) => *value = "<number>".into(),
        Value::String(text) if text.chars().any(|c| c.is_ascii_digit()) => *value = "<text>".into(),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(members) => members.values_mut().for_each(mask),
        _ => {}
    }
}

fn status_of_a_fresh_bridge() {
    let bridge = TestBridge::start(BridgeSetup::embedded());
    let mut status = eventually(
        "every topic is available and the dedup window rebuilt",
        || {
            let status = bridge.status();
            let text = status.to_string();
            let available = text.matches(r#""topic_state":"available""#).count();
            let is_settled =
                available >= EventType::ALL.len() && text.contains(r#""rebuilding":false"#);
            is_settled.then_some(status)
        },
    );
    mask(&mut status);
    let text = serde_json::to_string_pretty(&status).expect("JSON");
    assert_snapshot!("status", text);
}

fn report_of_the_simulator() {
    let bridge = TestBridge::start(BridgeSetup::embedded());
    bridge.wait_until_ready();
    let url = format!("http://{}/v1/events", bridge.ingest);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ledger.json");
    let output = binary()
        .args([
            "simulate", "--url", &url, "--plain", "--seed", "7", "--spaces", "12",
        ])
        .args(["--events", "200", "--speed", "600"])
        .args(["--start", "2026-11-29T08:00:00Z", "--output"])
        .arg(&file)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ledger = std::fs::read(&file).expect("a ledger");
    let mut report: Value = serde_json::from_slice(&ledger).expect("JSON");
    bridge.count_events(report["events"].as_u64().expect("a count"));
    mask(&mut report);
    assert_snapshot!(
        "simulator_report",
        serde_json::to_string_pretty(&report).expect("JSON")
    );
}
