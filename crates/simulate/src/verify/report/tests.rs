use super::*;
use butlr_event::EventType;

fn report() -> VerificationReport {
    let topics = EventType::ALL.map(|t| format!("t.{}", t.kebab_name()));
    let mut report = VerificationReport::new(topics);
    report.attempts = 1_234_567;
    report.records = 1_000;
    report.accepted = 999;
    report.count_checked(Property::Stored, 999);
    report.mark_unchecked(Property::ReportedPosition, "they are copies".to_owned());
    report
}

#[test]
fn each_property_has_a_line() {
    let text = report().to_string();
    assert!(report().is_proved());
    assert!(text.starts_with("compared 1,000 records with 1,234,567 requests in "));
    assert!(
        text.contains("ok           every event answered 2xx is in Kafka (999 events)\n"),
        "{text}"
    );
    assert!(text.contains(
        "not checked  records are at the positions named in the responses: they are copies\n"
    ));
    assert_eq!(text.lines().count(), 1 + Property::ALL.len() + 1);
    for (index, property) in Property::ALL.into_iter().enumerate() {
        assert_eq!(property as usize, index);
    }
}

#[test]
fn ten_violations_are_listed() {
    let mut report = report();
    let mut described = 0;
    for n in 0..12 {
        report.add_violation(Property::Intact, || {
            described += 1;
            Violation {
                id: Some(format!("event_{n}")),
                position: Some(RecordPosition {
                    topic: EventType::Traffic,
                    partition: 2,
                    offset: n,
                }),
                text: "other bytes".to_owned(),
            }
        });
    }
    assert_eq!(described, 10);
    assert!(!report.is_proved());
    let text = report.to_string();
    assert!(
        text.contains(
            "FAILED       values are byte for byte as sent: 12 violations; the first 10:\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("event_9  t.traffic[2]@9  other bytes\n"),
        "{text}"
    );
    assert!(!text.contains("event_10"));
    let json = report.to_json();
    assert_eq!(json["holds"], false);
    assert_eq!(json["properties"][1]["result"], "failed");
    assert_eq!(json["properties"][1]["violations"], 12);
    assert_eq!(
        json["properties"][1]["first_violations"][9]["record"]["topic"],
        "t.traffic"
    );
    assert_eq!(json["properties"][7]["result"], "not checked");
}

#[test]
fn an_unchecked_property_is_not_ok() {
    let text = report().to_string();
    let line = "not checked  values are byte for byte as sent: there was nothing to check\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(text.matches("\nok ").count(), 1, "{text}");
    assert_eq!(report().to_json()["properties"][1]["result"], "not checked");
}

#[test]
fn a_report_without_proofs_fails() {
    let mut no_acceptance = report();
    no_acceptance.accepted = 0;
    assert!(!no_acceptance.is_proved());
    let text = no_acceptance.to_string();
    assert!(
        text.ends_with("no event was accepted, so there is nothing to prove"),
        "{text}"
    );
    let mut unproved = VerificationReport::new(report().topics);
    unproved.accepted = 5;
    unproved.count_checked(Property::ResponseConsistency, 5);
    assert!(!unproved.is_proved());
    assert_eq!(unproved.to_json()["holds"], false);
}

#[test]
fn exclusions_are_listed() {
    let mut report = report();
    report.repeats_before_run = 1_234;
    report.records_before_run = 5;
    report.gave_up_reason = Some("after 60 s".to_owned());
    let text = report.to_string();
    assert!(report.is_proved());
    for part in [
        "1,234 repeats of readings from before",
        "ignored      5 records from before",
        "gave up      after 60 s\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    report.findings[Property::ReportedPosition as usize] = PropertyFinding::default();
    report.count_checked(Property::ReportedPosition, 3);
    (report.reported_positions, report.published) = (3, 40);
    let text = report.to_string();
    assert!(text.contains("3 of 40 published ones named one"), "{text}");
}
