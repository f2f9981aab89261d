use super::*;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

fn run() -> RunHeader {
    RunHeader {
        topics: "t.{type}".to_owned(),
        starts: Some(StartOffsets {
            offsets: vec![vec![3, 4]; 10],
        }),
    }
}

fn truth() -> GroundTruth {
    GroundTruth {
        at_ms: 5,
        spaces: vec![("room_ü".to_owned(), 2)],
    }
}

fn attempt(n: u64) -> DeliveryAttempt {
    let causes = [
        AttemptCause::Planned,
        AttemptCause::Redelivery,
        AttemptCause::AfterTimeout,
    ];
    DeliveryAttempt {
        reading_key: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        id: Ksuid::from_bytes([n as u8; 20]),
        value_hash: !n,
        data_hash: n,
        event_type: EventType::ALL[n as usize % 10],
        cause: causes[n as usize % 3],
        outcome: RecordedOutcome::ALL[n as usize % RecordedOutcome::ALL.len()],
        late: n.is_multiple_of(4),
        contradictory: n.is_multiple_of(5),
        reported_position: n.is_multiple_of(6).then_some(ReportedPosition {
            partition: n as i32,
            offset: n as i64,
        }),
    }
}

#[test]
fn attempts_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("created/on/the/way");
    let mut journal = JournalWriter::create(Some(&dir), run()).unwrap();
    let mut attempts: Vec<_> = (0..1_000).map(attempt).collect();
    for attempt in &attempts {
        journal.record_attempt(attempt).unwrap();
    }
    drop(journal.finish(truth(), true).unwrap());

    let journal = ClosedJournal::open(&dir).unwrap();
    assert_eq!(journal.run(), &run());
    assert_eq!(journal.end().truth.spaces, truth().spaces);
    assert!(journal.end().traffic_complete);
    assert_eq!(journal.attempt_count(), 1_000);
    assert_eq!(journal.outcome_count(RecordedOutcome::Published), 143);
    let read = (0..BUCKET_COUNT).flat_map(|n| journal.read_bucket(n).unwrap());
    let mut read: Vec<_> = read.collect();
    attempts.sort_by_key(|a| a.reading_key);
    read.sort_by_key(|a| a.reading_key);
    assert_eq!(read, attempts);
}

#[test]
fn a_temporary_journal_is_deleted_on_drop() {
    let mut journal = JournalWriter::create(None, run()).unwrap();
    journal.record_attempt(&attempt(1)).unwrap();
    let closed = journal.finish(truth(), false).unwrap();
    let path = closed.path().to_owned();
    assert!(path.join(JOURNAL_FILE).exists());
    drop(closed);
    assert!(!path.exists());
}

#[test]
fn a_directory_holds_one_journal() {
    let dir = tempfile::tempdir().unwrap();
    drop(JournalWriter::create(Some(dir.path()), run()).unwrap());
    let error = JournalWriter::create(Some(dir.path()), run())
        .err()
        .unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn an_incomplete_journal_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let open = || ClosedJournal::open(dir.path()).unwrap_err();
    assert!(matches!(open(), Error::NotFound(_)), "{}", open());
    drop(JournalWriter::create(Some(dir.path()), run()).unwrap());
    assert!(matches!(open(), Error::Unfinished(_)), "{}", open());
    for (text, reason) in [
        ("{", "EOF"),
        ("[]", "invalid length"),
        (
            r#"{"form":1,"run":{"topics":"","starts":null},"started_ms":0,"end":{"answers":[0]}}"#,
            "format is 1",
        ),
    ] {
        fs::write(dir.path().join(JOURNAL_FILE), text).unwrap();
        assert!(matches!(open(), Error::Unreadable { .. }));
        assert!(open().to_string().contains(reason), "{}", open());
    }
}

#[test]
fn a_damaged_file_is_reported_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = JournalWriter::create(Some(dir.path()), run()).unwrap();
    (0..1_000).for_each(|n| journal.record_attempt(&attempt(n)).unwrap());
    drop(journal.finish(truth(), true).unwrap());
    let file = dir.path().join("bucket-007");
    let mut bytes = fs::read(&file).unwrap();
    bytes[11] ^= 4;
    fs::write(&file, bytes).unwrap();
    let journal = ClosedJournal::open(dir.path()).unwrap();
    assert!(journal.read_bucket(6).is_ok());
    let error = journal.read_bucket(7).unwrap_err().to_string();
    assert!(error.contains("bucket-007"), "{error}");
}
