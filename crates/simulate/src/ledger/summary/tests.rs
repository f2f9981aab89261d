use std::time::{Duration, Instant};

use super::*;
use crate::outcome::ServerResponse;

fn sample_ledger() -> RunLedger {
    let start = Instant::now();
    let mut ledger = RunLedger::new(start, LoopKind::Open, 1_700_000_000_000);
    for kind in [
        DeliveryKind::First,
        DeliveryKind::Redelivery,
        DeliveryKind::Invalid,
    ] {
        let expected = match kind {
            DeliveryKind::First => Some(OracleVerdict::First),
            DeliveryKind::Redelivery => Some(OracleVerdict::Redelivery),
            _ => None,
        };
        ledger.record_delivery(EventType::Traffic, kind, expected);
        let outcome = match kind {
            DeliveryKind::Invalid => RecordedOutcome::Refused,
            _ => RecordedOutcome::Published,
        };
        ledger.record_response_outcome(EventType::Traffic, kind, outcome);
        ledger.record_try(1);
        let (status, send_outcome) = match kind {
            DeliveryKind::Invalid => (422, SendOutcome::Refused),
            _ => (200, SendOutcome::Accepted),
        };
        let reported = (status == 200).then_some(ReportedOutcome::Published);
        let response = ServerResponse {
            status,
            outcome: reported,
            position: None,
        };
        ledger.record_response(&response, kind);
        if send_outcome == SendOutcome::Accepted {
            ledger.record_acceptance(Duration::from_micros(1500), start + Duration::from_secs(1));
        }
        ledger.record_send_outcome(EventType::Traffic, kind, send_outcome);
    }
    ledger.finish(start + Duration::from_secs(2), 1_700_000_060_000);
    ledger
}

#[test]
fn the_text_shows_everything() {
    let text = RunSummary::from(&sample_ledger()).to_string();
    for part in [
        "3 events in 2.0 s, 2 accepted per second; simulated 2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z",
        "responses     200 2   422 1",
        "2xx outcomes  published 2   spooled 0",
        "p99 1.50 ms",
        "from the due time of each event to its acceptance, including all tries",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let table: Vec<_> = text.lines().filter(|l| l.contains('|')).collect();
    assert_eq!(table.len(), 1 + 10 + 2 + 1 + 10 + 1);
    for table in table.chunk_by(|_, line| !line.starts_with("expected")) {
        let bars: Vec<_> = table.iter().map(|l| l.rfind('|')).collect();
        assert!(
            bars.iter().all(|b| *b == bars[0]),
            "columns are not aligned:\n{text}"
        );
    }
}

#[test]
fn the_json_has_the_same_sums() {
    let json = serde_json::to_value(RunSummary::from(&sample_ledger())).unwrap();
    assert_eq!(json["events"], 3);
    assert_eq!(json["ends"]["accepted"], 2);
    assert_eq!(json["types"]["TRAFFIC"]["kinds"]["invalid"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["ends"]["refused"], 0);
    assert_eq!(json["invalid"]["refused"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["expected"]["redelivery"], 1);
    assert_eq!(json["types"]["TRAFFIC"]["heard"]["published"], 2);
    assert_eq!(json["expected"]["first"], 1);
    assert_eq!(
        json["heard"]["refused"], 0,
        "invalid items are not included"
    );
    assert_eq!(json["answers"]["422"], 1);
    assert_eq!(json["latency_ms"]["p99.9"], 1.5);
    assert_eq!(json["events_per_s"], 2.0, "up to the last acceptance");
}

#[test]
fn without_acceptance_there_is_no_latency() {
    let ledger = RunLedger::new(Instant::now(), LoopKind::Closed, 0);
    let summary = RunSummary::from(&ledger);
    let json = serde_json::to_value(&summary).unwrap();
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        assert_eq!(json["latency_ms"][name], serde_json::Value::Null, "{name}");
    }
    let text = summary.to_string();
    assert!(text.contains("p50 –   p90 –"), "{text}");
    assert!(text.contains("from the first try of each event to"));
}
