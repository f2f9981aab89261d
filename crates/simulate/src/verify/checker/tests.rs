use super::super::samples::{NOW, PARTITIONS, SampleEvent, SampleRun, check_record, new_checker};
use super::*;

fn sample() -> SampleEvent {
    SampleEvent::new(3, EventType::RoomOccupancy, "4")
}

#[test]
fn a_good_record_is_digested() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let (sample, record) = (sample(), sample().record(9));
    let digest = check_record(&mut checker, &record).unwrap();
    assert_eq!(digest.id, sample.id);
    assert_eq!(
        digest.value_hash,
        hash::hash_bytes(sample.value().as_bytes())
    );
    assert_eq!(digest.data_hash, hash::hash_bytes(b"4"));
    assert!(!digest.misplaced && !digest.wrong_headers);
    assert!(checker.issues.unreadable.is_empty());
}

#[test]
fn topic_key_and_partition_follow_from_the_value() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let mut issue = |change: &dyn Fn(&mut super::super::samples::SampleRecord)| {
        let mut record = sample().record(9);
        change(&mut record);
        let digest = check_record(&mut checker, &record).unwrap();
        assert!(digest.misplaced && !digest.wrong_headers);
        checker.issues.misplaced.remove(&record.position).unwrap()
    };
    assert!(
        issue(&|r| r.position.topic = EventType::RoomOccupancy1Min)
            .contains("topic t.room-occupancy")
    );
    assert!(issue(&|r| r.key = Some(b"room_3".to_vec())).contains("key room_"));
    assert!(issue(&|r| r.key = None).contains("not none"));
    let other = |p: i32| (p + 1) % PARTITIONS as i32;
    assert!(issue(&|r| r.position.partition = other(r.position.partition)).contains("partition"));
}

#[test]
fn headers_are_checked() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let mut record = sample().record(9);
    *record.header("ce_type") = b"io.butlr.room-occupancy.v2".to_vec();
    let digest = check_record(&mut checker, &record).unwrap();
    assert!(digest.wrong_headers && !digest.misplaced);
    assert!(checker.issues.wrong_headers[&record.position].contains("ce_type"));
    let nameless = ConsumedRecord {
        position: record.position,
        timestamp_ms: record.timestamp_ms,
        latest_publish_ms: NOW,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: None,
    };
    assert!(checker.check(&nameless).unwrap().wrong_headers);
}

#[test]
fn unreadable_records_are_collected() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let values: [Option<&[u8]>; 6] = [
        None,
        Some(b""),
        Some(b"{\"id\":"),
        Some(&[0xff, 0xfe]),
        Some(br#"{"id":"other_1","type":"PIR_MOTION","timestamp":1,"metadata":{"room_id":"r"}}"#),
        Some(br#"{"id":"event_1","type":"PIR_MOTION","timestamp":1,"metadata":{"room_id":"r"}}"#),
    ];
    for (n, value) in values.into_iter().enumerate() {
        let mut record = sample().record(n as i64);
        record.value = value.map(<[u8]>::to_vec);
        assert!(check_record(&mut checker, &record).is_none());
    }
    let unreadable = &checker.issues.unreadable;
    assert_eq!(unreadable.len(), values.len());
    assert!(unreadable[0].reason.contains("tombstone"));
    assert!(unreadable[1].reason.contains("empty"));
    assert!(unreadable[2].reason.contains("EOF"));
    assert_eq!(unreadable[4].id.as_deref(), Some("other_1"));
    assert!(
        unreadable
            .iter()
            .all(|s| s.claimed_ids == [None, Some(sample().id)])
    );
}

#[test]
fn a_changed_id_is_found_in_the_headers() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let mut record = sample().record(9);
    let other = SampleEvent::new(4, EventType::RoomOccupancy, "4");
    record.replace_in_value(&sample().id.to_string(), &other.id.to_string());
    assert_eq!(check_record(&mut checker, &record).unwrap().id, other.id);
    assert_eq!(
        checker.issues.differing_header_ids[&record.position],
        sample().id
    );
}

#[test]
fn traffic_refers_to_its_space() {
    let traffic = SampleEvent::new(3, EventType::Traffic, r#"{"in":4,"out":1}"#);
    let truth = GroundTruth {
        at_ms: NOW,
        spaces: vec![("space_1".to_owned(), 0), (traffic.room.clone(), 3)],
    };
    let mut checker = new_checker(&truth);
    let digest = check_record(&mut checker, &traffic.record(1)).unwrap();
    assert_eq!((digest.space_index, digest.net), (Some(1), 3));
    let digest = check_record(&mut checker, &sample().record(1)).unwrap();
    assert_eq!((digest.space_index, digest.net), (None, 0));
}

#[test]
fn long_texts_are_truncated() {
    let mut checker = new_checker(&SampleRun::empty().truth);
    let long = "ü".repeat(100_000);
    let mut record = sample().record(1);
    record.key = Some(long.clone().into_bytes());
    record.headers.push((long.clone(), b"1".to_vec()));
    check_record(&mut checker, &record).unwrap();
    let mut record = sample().record(2);
    let text = format!(r#"{{"id":"{long}","type":"{long}","timestamp":1,"metadata":{{}}}}"#);
    record.value = Some(text.into_bytes());
    assert!(check_record(&mut checker, &record).is_none());
    let issues = &checker.issues;
    let mut texts: Vec<&String> = issues.misplaced.values().collect();
    texts.extend(issues.wrong_headers.values());
    texts.push(&issues.unreadable[0].reason);
    assert_eq!(texts.len(), 3);
    for text in texts {
        assert_eq!(text.chars().count(), MAX_TEXT_CHARS + 1, "{text}");
        assert!(text.ends_with('…'));
    }
}
