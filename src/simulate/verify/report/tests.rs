use super::*;

fn report() -> Report {
    let topics = EventType::ALL.map(|t| format!("t.{}", t.kebab()));
    let mut report = Report::new(topics);
    report.attempts = 1_234_567;
    report.records = 1_000;
    report.checked(Property::Stored, 999);
    report.unchecked(Property::Named, "they are copies".to_owned());
    report
}

#[test]
fn each_property_has_a_line() {
    let text = report().to_string();
    assert!(report().holds());
    assert!(text.starts_with("read 1,000 records back and compared them with 1,234,567 answers"));
    assert!(
        text.contains("ok           everything answered 2xx is there (999 events)\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "not checked  partition and offset are those of the answers: they are copies\n"
        )
    );
    assert_eq!(text.lines().count(), 1 + Property::ALL.len() + 1);
    for (place, property) in Property::ALL.into_iter().enumerate() {
        assert_eq!(property as usize, place);
    }
}

#[test]
fn ten_violations_are_told() {
    let mut report = report();
    let mut made = 0;
    for n in 0..12 {
        report.violated(Property::Intact, || {
            made += 1;
            Violation {
                id: Some(format!("event_{n}")),
                position: Some(Position {
                    topic: 1,
                    partition: 2,
                    offset: n,
                }),
                text: "other bytes".to_owned(),
            }
        });
    }
    assert_eq!(made, 10);
    assert!(!report.holds());
    let text = report.to_string();
    assert!(
        text.contains(
            "FAILED       bytes are those that were sent: violated by 12; the first 10:\n"
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
    assert_eq!(json["properties"][6]["result"], "not checked");
}
