use std::time::{Duration, Instant};

use super::*;
use crate::sender::Answered;

fn ledger() -> Ledger {
    let begun = Instant::now();
    let mut ledger = Ledger::begin(begun, true, 1_700_000_000_000);
    for kind in [Kind::First, Kind::Redelivery, Kind::Invalid] {
        let expected = match kind {
            Kind::First => Some(Verdict::First),
            Kind::Redelivery => Some(Verdict::Redelivery),
            _ => None,
        };
        ledger.delivery(EventType::Traffic, kind, expected);
        let answer = match kind {
            Kind::Invalid => Answer::Refused,
            _ => Answer::Published,
        };
        ledger.told(EventType::Traffic, kind, answer);
        ledger.tried(1);
        let (status, end) = match kind {
            Kind::Invalid => (422, End::Refused),
            _ => (200, End::Accepted),
        };
        let word = (status == 200).then_some(Word::Published);
        let answered = Answered {
            status,
            word,
            at: None,
        };
        ledger.answered(&answered, kind);
        if end == End::Accepted {
            ledger.accepted(Duration::from_micros(1500), begun + Duration::from_secs(1));
        }
        ledger.delivered(EventType::Traffic, kind, end);
    }
    ledger.end(begun + Duration::from_secs(2), 1_700_000_060_000);
    ledger
}

#[test]
fn the_text_says_all_there_is() {
    let text = Summary::from(&ledger()).to_string();
    for part in [
        "3 events in 2.0 s, 2 accepted a second; simulated 2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z",
        "answers       200 2   422 1",
        "of 2xx        published 2   spooled 0",
        "p99 1.50 ms",
        "from the moment at which each event was due to its acceptance, all tries included",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let table: Vec<_> = text.lines().filter(|l| l.contains('|')).collect();
    assert_eq!(table.len(), 1 + 10 + 2 + 1 + 10 + 1);
    for table in table.chunk_by(|_, line| !line.starts_with("expected")) {
        let bars: Vec<_> = table.iter().map(|l| l.rfind('|')).collect();
        assert!(bars.iter().all(|b| *b == bars[0]), "aligned:\n{text}");
    }
}

#[test]
fn the_json_has_the_same_sums() {
    let json = serde_json::to_value(Summary::from(&ledger())).unwrap();
    assert_eq!(json["events"], 3);
    assert_eq!(json["ends"]["accepted"], 2);
    assert_eq!(json["types"]["TRAFFIC"]["kinds"]["invalid"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["ends"]["refused"], 0);
    assert_eq!(json["invalid"]["refused"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["expected"]["redelivery"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["heard"]["published"], 2);
    assert_eq!(json["expected"]["first"], 1);
    assert_eq!(json["heard"]["refused"], 0, "without invalid ones");
    assert_eq!(json["answers"]["422"], 1);
    assert_eq!(json["latency_ms"]["p99.9"], 1.5);
    assert_eq!(json["events_per_s"], 2.0, "up to the last acceptance");
}

#[test]
fn without_acceptance_there_is_no_latency() {
    let ledger = Ledger::begin(Instant::now(), false, 0);
    let summary = Summary::from(&ledger);
    let json = serde_json::to_value(&summary).unwrap();
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        assert_eq!(json["latency_ms"][name], serde_json::Value::Null, "{name}");
    }
    let text = summary.to_string();
    assert!(text.contains("p50 –   p90 –"), "{text}");
    assert!(text.contains("from the beginning of each event's first try to"));
}
