//! `spool status|list|export|verify|drain`, as an operator uses them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_bridge::marks::{Marks, Revision};
use butlr_bridge::provenance::QuarantineDetails;
use butlr_bridge::spool::entry::{EntryContent, SpoolEntry};
use butlr_bridge::spool::store::{Options, ReadLimit, SpoolStore};
use butlr_event::EventType;
use butlr_event::destination::Destination;
use butlr_event::event_id::EventId;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{BridgeProcess, binary, minimal_event, read_records, trials, unique_ms};
use crate::real_kafka::{create_topics, delete_topics, free_address, kafka_address, unique_name};

trials! {
    "process": [
        status_counts_by_destination_and_changes_nothing,
        status_reports_damage_and_changes_nothing,
        list_shows_what_is_asked_for,
        exported_values_are_those_received,
        an_export_never_replaces_another,
        a_closed_pipe_is_no_panic,
        a_full_disk_is_reported,
        verify_finds_what_is_wrong,
        a_spool_in_use_is_looked_at_but_not_drained,
        a_directory_without_a_spool_is_reported,
        a_copy_needs_no_configuration,
        drain_empties_it_in_order,
        drain_publishes_nothing_twice,
        drain_sets_aside_what_can_never_be_published,
        drain_gives_up_in_time_and_keeps_everything,
        drain_ends_at_the_first_signal_and_keeps_everything,
        drain_names_the_topic_that_is_missing,
        drain_needs_no_kafka_for_an_empty_spool,
    ],
    "process" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        drain_empties_it_into_a_real_kafka,
    ],
}

const ROOM: Destination = Destination::Events(EventType::RoomOccupancy);
const TRAFFIC: Destination = Destination::Events(EventType::Traffic);
const QUARANTINE: Destination = Destination::Quarantine;
const RECEIVED_MS: i64 = 1_700_000_000_000;

/// Spool as a bridge left it.
struct LeftoverSpool {
    dir: TempDir,
}

impl LeftoverSpool {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    fn open(&self) -> SpoolStore {
        open(&self.path())
    }

    fn add(&self, entries: &[(Destination, Vec<u8>)]) -> Vec<u64> {
        let store = self.open();
        let seqs = store.append(entries).expect("appended");
        store.flush().expect("flushed");
        seqs.collect()
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir(copy.path()).expect("a directory");
        for (name, bytes) in self.files() {
            fs::write(copy.path().join(name), bytes).expect("a copy");
        }
        copy
    }

    /// Reads its files, by name.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path()).expect("the spool");
        let files = entries.map(|entry| entry.expect("an entry"));
        let file = |file: fs::DirEntry| {
            let name = file.file_name().into_string().expect("a name");
            (name, fs::read(file.path()).unwrap_or_default())
        };
        files.map(file).collect()
    }

    /// Returns the path of the file with the entries.
    fn segment(&self) -> PathBuf {
        let files = self.files();
        let marker = b"\"received_ms\"";
        let holds = |bytes: &[u8]| bytes.windows(marker.len()).any(|part| part == marker);
        let is_segment = |(name, bytes): &(&String, &Vec<u8>)| {
            name.ends_with(".redb") && *name != "set-aside.redb" && holds(bytes)
        };
        let (name, _) = files.iter().find(is_segment).expect("a segment");
        self.path().join(name)
    }

    /// Flips a bit in the value that contains `text`.
    fn damage(&self, text: &str) {
        let path = self.segment();
        let mut bytes = fs::read(&path).expect("the segment");
        let found: Vec<_> = (0..bytes.len() - text.len())
            .filter(|at| &bytes[*at..at + text.len()] == text.as_bytes())
            .collect();
        assert!(!found.is_empty(), "{text} is missing");
        for at in found {
            bytes[at] ^= 1;
        }
        fs::write(path, bytes).expect("written");
    }

    fn spool(&self, command: &str) -> Command {
        let mut spool = binary();
        spool.args(["spool", command, "--dir"]).arg(self.path());
        spool
    }

    fn run_command(&self, command: &str, arguments: &[&str]) -> Output {
        self.spool(command)
            .args(arguments)
            .output()
            .expect("it runs")
    }

    fn drain(&self, bootstrap: &str, arguments: &[&str]) -> Command {
        let mut drain = self.spool("drain");
        drain.args(["--set", &format!("kafka.bootstrap_servers={bootstrap}")]);
        drain.args(arguments);
        drain
    }

    fn entries(&self) -> u64 {
        let status = self.run_command("status", &["--json"]);
        parse_json(&status)["entries"].as_u64().expect("a number")
    }
}

fn open(dir: &Path) -> SpoolStore {
    let options = Options {
        dir: dir.to_owned(),
        segment_bytes: 1 << 20,
    };
    SpoolStore::open(options).expect("a spool").0
}

fn encode_entry(marks: Marks, value: &str) -> Vec<u8> {
    let content = EntryContent::Event {
        marks,
        replayed_from: None,
    };
    SpoolEntry {
        received_ms: RECEIVED_MS,
        in_doubt: false,
        content,
        value: value.as_bytes().into(),
    }
    .encode()
}

fn plain_entry(value: &str) -> Vec<u8> {
    encode_entry(Marks::default(), value)
}

fn quarantined_entry(value: &[u8]) -> Vec<u8> {
    let of = QuarantineDetails {
        codes: vec!["not_json".to_owned()],
        path: "/v1/events".to_owned(),
        ..QuarantineDetails::default()
    };
    SpoolEntry {
        received_ms: RECEIVED_MS + 5,
        in_doubt: true,
        content: EntryContent::Quarantined(of),
        value: value.into(),
    }
    .encode()
}

fn room_event(number: usize) -> String {
    let id = format!("event_room_{number}");
    minimal_event(EventType::RoomOccupancy, &id, unique_ms(), "room_1")
}

fn traffic_event(number: usize) -> String {
    let id = format!("event_traffic_{number}");
    minimal_event(EventType::Traffic, &id, unique_ms(), "room_2")
}

/// Creates a spool with three events of a room, one of them a revision; one event of a door; and
/// one rejected item.
fn filled_spool() -> (LeftoverSpool, Vec<String>) {
    let leftover = LeftoverSpool::new();
    let values = vec![
        room_event(0),
        room_event(1),
        room_event(2),
        traffic_event(0),
    ];
    let revision = Marks {
        revision: Some(Revision {
            number: 1,
            supersedes: EventId::new("event_room_0"),
        }),
        ..Marks::default()
    };
    leftover.add(&[
        (ROOM, plain_entry(&values[0])),
        (ROOM, plain_entry(&values[1])),
        (TRAFFIC, plain_entry(&values[3])),
        (QUARANTINE, quarantined_entry(b"\xff{")),
        (ROOM, encode_entry(revision, &values[2])),
    ]);
    (leftover, values)
}

fn start_broker() -> EmbeddedKafka {
    let mut topics: Vec<_> = EventType::ALL
        .map(|t| (format!("butlr.event.{}.v1", t.kebab_name()), 3))
        .into();
    topics.push(("butlr.quarantine.v1".to_owned(), 3));
    EmbeddedKafka::start(&topics).expect("a broker")
}

const ROOM_TOPIC: &str = "butlr.event.room-occupancy.v1";

fn read_output(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

fn stdout_text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

#[track_caller]
fn expect_exit(output: &Output, code: i32, texts: &[&str]) {
    let output_text = read_output(output);
    assert_eq!(output.status.code(), Some(code), "{output_text}");
    assert!(!output_text.contains("panicked"), "{output_text}");
    for text in texts {
        assert!(
            output_text.contains(text),
            "{text:?} is not in: {output_text}"
        );
    }
}

#[track_caller]
fn parse_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn parse_json_lines(output: &Output) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    stdout_text(output).lines().map(line).collect()
}

fn status_counts_by_destination_and_changes_nothing() {
    let (leftover, _) = filled_spool();
    let store = leftover.open();
    let limit = ReadLimit {
        entries: 10,
        bytes: 1 << 20,
    };
    let seqs: Vec<_> = store.read(ROOM, 0, limit).expect("read");
    store
        .move_to_dead_letters(ROOM, seqs[0].0, "too large")
        .expect("aside");
    store
        .record_handover(ROOM, seqs[1].0, &[(0, 7)])
        .expect("handed");
    drop(store);
    let before = leftover.files();
    let output = leftover.run_command("status", &[]);
    expect_exit(
        &output,
        0,
        &[
            "4 entries",
            "1 set aside",
            "ROOM_OCCUPANCY",
            "quarantine",
            "2023-11-14T22:13:20",
        ],
    );
    assert!(
        !read_output(&output).contains("PIR_MOTION"),
        "only existing entries: {output:?}"
    );
    assert!(!read_output(&output).contains("a bridge uses it"));
    let status = leftover.run_command("status", &["--json"]);
    expect_exit(&status, 0, &[]);
    let status = parse_json(&status);
    assert_eq!(status["entries"], 4);
    assert_eq!(status["damage"], serde_json::json!([]));
    assert_eq!(status["oldest_received_at"], "2023-11-14T22:13:20.000Z");
    assert!(status["bytes"].as_u64() > Some(1_000), "{status}");
    let destinations = status["destinations"].as_array().expect("an array");
    assert_eq!(destinations.len(), Destination::COUNT);
    let of = |to: Destination| &destinations[to.index()];
    assert_eq!(of(ROOM)["entries"], 2);
    assert_eq!(of(ROOM)["set_aside"], 1);
    assert_eq!(of(ROOM)["handed_up_to"], seqs[1].0);
    assert_eq!(of(TRAFFIC)["handed_up_to"], Value::Null);
    assert_eq!(
        of(QUARANTINE)["oldest_received_at"],
        "2023-11-14T22:13:20.005Z"
    );
    assert_eq!(leftover.files(), before);
}

fn status_reports_damage_and_changes_nothing() {
    let (leftover, _) = filled_spool();
    let name = leftover
        .segment()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    leftover.damage("event_room_1");
    let before = leftover.files();
    for arguments in [&[][..], &["--json"]] {
        let output = leftover.run_command("status", arguments);
        expect_exit(&output, 1, &["damage", &name]);
    }
    expect_exit(
        &leftover.run_command("status", &[]),
        1,
        &["4 entries", "nothing was changed"],
    );
    assert_eq!(leftover.files(), before);
    // Intact entries are printed all the same, and the damage is reported.
    let output = leftover.run_command("export", &["--raw", "--type", "room-occupancy"]);
    expect_exit(&output, 1, &["damage", "event_room_0", "event_room_2"]);
    assert_eq!(stdout_text(&output).lines().count(), 2);
}

fn list_shows_what_is_asked_for() {
    let (leftover, values) = filled_spool();
    let output = leftover.run_command("list", &[]);
    expect_exit(
        &output,
        0,
        &[
            "event_room_0",
            "room_2",
            "revision 1",
            "not_json",
            "in doubt",
        ],
    );
    assert_eq!(
        stdout_text(&output).lines().count(),
        6,
        "a header and five entries: {output:?}"
    );
    let of_type = |types: &[&str]| {
        let types = types.iter().flat_map(|name| ["--type", *name]);
        let arguments: Vec<_> = types.chain(["--json"]).collect();
        let lines = parse_json_lines(&leftover.run_command("list", &arguments)).into_iter();
        let name = |line: Value| line["destination"].as_str().unwrap().to_owned();
        lines.map(name).collect::<Vec<_>>()
    };
    assert_eq!(of_type(&["traffic"]), ["TRAFFIC"]);
    assert_eq!(
        of_type(&["quarantine", "TRAFFIC"]),
        ["TRAFFIC", "quarantine"]
    );
    assert_eq!(of_type(&["PIR_MOTION"]), [""; 0]);
    let lines = parse_json_lines(&leftover.run_command(
        "list",
        &["--json", "--limit", "2", "--type", "ROOM_OCCUPANCY"],
    ));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["id"], "event_room_0");
    assert_eq!(lines[0]["space_id"], "room_1");
    assert_eq!(lines[0]["bytes"], values[0].len());
    assert!(lines[0]["seq"].as_u64() < lines[1]["seq"].as_u64());
    assert_eq!(
        stdout_text(&leftover.run_command("list", &["--limit", "0", "--json"])),
        ""
    );
    expect_exit(
        &leftover.run_command("list", &["--type", "rooms"]),
        2,
        &["allowed: DETECTIONS"],
    );
    assert_eq!(
        stdout_text(&leftover.run_command("list", &["--set-aside", "--json"])),
        ""
    );
    let store = leftover.open();
    let first = store.read(TRAFFIC, 0, ReadLimit::ONE).expect("read")[0].0;
    store
        .move_to_dead_letters(TRAFFIC, first, "no room for it")
        .expect("aside");
    drop(store);
    expect_exit(
        &leftover.run_command("list", &["--set-aside"]),
        0,
        &["event_traffic_0", "no room for it"],
    );
    assert!(!stdout_text(&leftover.run_command("list", &["--set-aside"])).contains("event_room_0"));
    assert_eq!(of_type(&["traffic"]), [""; 0], "it waits no more");
}

fn exported_values_are_those_received() {
    let (leftover, values) = filled_spool();
    let output = leftover.run_command("export", &[]);
    expect_exit(&output, 0, &[]);
    let lines = parse_json_lines(&output);
    let of = |name: &str| {
        lines
            .iter()
            .filter(|line| line["destination"] == name)
            .collect::<Vec<_>>()
    };
    let rooms = of("ROOM_OCCUPANCY");
    for (line, value) in rooms.iter().zip(&values) {
        let expected: Value = serde_json::from_str(value).expect("JSON");
        assert_eq!(line["value"], expected);
        assert_eq!(line["received_at"], "2023-11-14T22:13:20.000Z");
    }
    assert_eq!(rooms.len(), 3);
    assert_eq!(
        rooms[2]["marks"],
        serde_json::json!({ "revision": 1, "supersedes": "event_room_0" })
    );
    let no_event = of("quarantine")[0];
    assert_eq!(
        STANDARD
            .decode(no_event["value_base64"].as_str().unwrap())
            .unwrap(),
        b"\xff{"
    );
    assert_eq!(no_event["quarantined"]["path"], "/v1/events");
    let raw = leftover.run_command(
        "export",
        &["--raw", "--type", "ROOM_OCCUPANCY", "--type", "TRAFFIC"],
    );
    expect_exit(&raw, 0, &[]);
    // In the order of the types.
    let expected = [&values[3], &values[0], &values[1], &values[2]];
    let one_line = expected.map(|value| value.replace('\n', " "));
    assert_eq!(stdout_text(&raw).lines().collect::<Vec<_>>(), one_line);
    expect_exit(
        &leftover.run_command("export", &["--raw", "--type", "quarantine"]),
        0,
        &["1 values are not JSON"],
    );
    expect_exit(
        &leftover.run_command("export", &["--help"]),
        0,
        &["jq -c", "curl"],
    );
}

fn an_export_never_replaces_another() {
    let (leftover, values) = filled_spool();
    let file = leftover.dir.path().join("saved.jsonl");
    let arguments = ["--out", file.to_str().unwrap()];
    expect_exit(
        &leftover.run_command("export", &arguments),
        0,
        &["5 entries were written to", "saved.jsonl"],
    );
    let saved = fs::read_to_string(&file).expect("saved");
    assert_eq!(saved.lines().count(), 5);
    assert!(saved.contains(&values[1].replace('\n', " ")));
    expect_exit(
        &leftover.run_command("export", &arguments),
        1,
        &["saved.jsonl", "choose another name"],
    );
    assert_eq!(fs::read_to_string(&file).expect("still there"), saved);
    let nowhere = leftover.dir.path().join("none/saved.jsonl");
    expect_exit(
        &leftover.run_command("export", &["--out", nowhere.to_str().unwrap()]),
        1,
        &["cannot be written"],
    );
    let names = fs::read_dir(leftover.dir.path()).expect("a directory");
    assert_eq!(names.count(), 2, "no partly written file is left");
}

fn a_closed_pipe_is_no_panic() {
    let leftover = LeftoverSpool::new();
    let entries: Vec<_> = (0..2_000)
        .map(|number| (ROOM, plain_entry(&room_event(number))))
        .collect();
    leftover.add(&entries);
    for command in ["list", "export"] {
        let mut child = leftover.spool(command);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("it runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the command ends");
        assert_eq!(read_output(&output), "", "{command}");
        assert_eq!(
            output.status.code(),
            Some(1),
            "{command}: the damage was not reported"
        );
    }
}

fn a_full_disk_is_reported() {
    let (leftover, _) = filled_spool();
    for command in ["status", "list", "export", "verify"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut spool = leftover.spool(command);
        let output = spool
            .stdout(full.expect("Linux"))
            .output()
            .expect("it runs");
        expect_exit(&output, 1, &["standard output cannot be written"]);
    }
}

fn verify_finds_what_is_wrong() {
    let (leftover, _) = filled_spool();
    let before = leftover.files();
    expect_exit(
        &leftover.run_command("verify", &[]),
        0,
        &["read 5 entries", "0 set aside", "everything is intact"],
    );
    assert_eq!(leftover.files(), before);
    let missing = leftover.copy();
    fs::remove_file(missing.segment()).expect("removed");
    expect_exit(
        &missing.run_command("verify", &[]),
        1,
        &[".redb is missing", "damage was found"],
    );
    let flipped = leftover.copy();
    flipped.damage("event_room_1");
    let before = flipped.files();
    expect_exit(
        &flipped.run_command("verify", &[]),
        1,
        &["damage", "read 4 entries", "damage was found"],
    );
    assert_eq!(flipped.files(), before);
    let torn = leftover.copy();
    let segment = fs::OpenOptions::new().write(true).open(torn.segment());
    let len = fs::metadata(torn.segment()).expect("a file").len();
    segment
        .and_then(|file| file.set_len(len / 2))
        .expect("cut off");
    expect_exit(&torn.run_command("verify", &[]), 1, &["damage"]);
    let later = leftover.copy();
    let mut of_a_later_release = plain_entry(&room_event(9));
    of_a_later_release[0] = 200;
    later.add(&[(ROOM, of_a_later_release)]);
    expect_exit(
        &later.run_command("verify", &[]),
        1,
        &["format 200", "1 of them cannot be read by this release"],
    );
}

fn a_spool_in_use_is_looked_at_but_not_drained() {
    let (leftover, _) = filled_spool();
    let store = leftover.open();
    store
        .append(&[(ROOM, plain_entry(&room_event(7)))])
        .expect("appended");
    expect_exit(
        &leftover.run_command("status", &[]),
        0,
        &["6 entries", "a bridge uses it"],
    );
    expect_exit(&leftover.run_command("list", &[]), 0, &["event_room_7"]);
    expect_exit(&leftover.run_command("verify", &[]), 0, &["read 6 entries"]);
    let kafka = start_broker();
    let output = leftover
        .drain(kafka.bootstrap_servers(), &[])
        .output()
        .expect("it runs");
    expect_exit(&output, 1, &["stop the bridge first", "delete the volume"]);
    assert_eq!(store.present(ROOM), 4);
    store
        .append(&[(ROOM, plain_entry(&room_event(8)))])
        .expect("the running bridge is not affected");
    drop(store);
    assert_eq!(leftover.entries(), 7);
}

fn a_directory_without_a_spool_is_reported() {
    let leftover = LeftoverSpool::new();
    for command in ["status", "list", "export", "verify"] {
        expect_exit(
            &leftover.run_command(command, &[]),
            2,
            &["cannot be read", "--dir"],
        );
    }
    let drain = || {
        leftover
            .drain("127.0.0.1:1", &[])
            .output()
            .expect("it runs")
    };
    expect_exit(&drain(), 2, &["cannot be read"]);
    assert!(!leftover.path().exists(), "a mistake creates nothing");
    fs::create_dir(leftover.path()).expect("a directory");
    expect_exit(
        &leftover.run_command("status", &[]),
        2,
        &["there is no spool"],
    );
    expect_exit(&drain(), 2, &["there is no spool"]);
    let run = |arguments: &[&str]| binary().args(arguments).output().expect("it runs");
    expect_exit(&run(&["spool", "status"]), 2, &["spool.dir"]);
    expect_exit(&run(&["spool", "drain"]), 2, &["kafka.bootstrap_servers"]);
    expect_exit(&run(&["spool"]), 2, &["status", "drain"]);
}

fn a_copy_needs_no_configuration() {
    let (leftover, _) = filled_spool();
    let config = leftover.dir.path().join("bridge.toml");
    let text = format!("[spool]\ndir = \"{}\"\n", leftover.path().display());
    fs::write(&config, text).expect("written");
    let run = |arguments: &[&str]| {
        let mut status = binary();
        status
            .args(["spool", "status", "--json", "--config"])
            .arg(&config);
        status.args(arguments).output().expect("it runs")
    };
    assert_eq!(parse_json(&run(&[]))["entries"], 5);
    let other = LeftoverSpool::new();
    other.add(&[(ROOM, plain_entry(&room_event(0)))]);
    let dir = other.path();
    let over = run(&["--dir", dir.to_str().unwrap()]);
    assert_eq!(
        parse_json(&over)["entries"],
        1,
        "--dir overrides the configuration"
    );
    fs::write(&config, "[spool]\ndri = \"x\"\n").expect("written");
    expect_exit(&run(&[]), 2, &["spool.dri"]);
}

#[track_caller]
fn expect_rooms(bootstrap: &str, topic: &str, values: &[String]) {
    let records = read_records(bootstrap, topic);
    let found: Vec<_> = records
        .iter()
        .map(|record| record.text().to_owned())
        .collect();
    assert_eq!(found, values, "in order, each once");
    for record in &records {
        assert_eq!(record.header("ce_spooled"), Some("true"));
        assert_eq!(
            record.header("ce_receivedat"),
            Some("2023-11-14T22:13:20.000Z")
        );
    }
}

fn drain_empties_it_in_order() {
    let leftover = LeftoverSpool::new();
    let values: Vec<_> = (0..500).map(room_event).collect();
    let mut entries: Vec<_> = values
        .iter()
        .map(|value| (ROOM, plain_entry(value)))
        .collect();
    entries.push((QUARANTINE, quarantined_entry(b"\xff{")));
    leftover.add(&entries);
    let kafka = start_broker();
    let bootstrap = kafka.bootstrap_servers();
    let output = leftover
        .drain(bootstrap, &["--within", "20s"])
        .output()
        .expect("it runs");
    expect_exit(
        &output,
        0,
        &[
            "is empty",
            "drained 501, already stored 0, confirmed late 0, set aside 0",
            "took",
        ],
    );
    expect_rooms(bootstrap, ROOM_TOPIC, &values);
    let records = read_records(bootstrap, "butlr.quarantine.v1");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].value, b"\xff{");
    assert_eq!(records[0].header("butlr-error-codes"), Some("not_json"));
    assert_eq!(leftover.entries(), 0);
    // Running it again does no harm.
    let output = leftover
        .drain(bootstrap, &["--within", "20s"])
        .output()
        .expect("it runs");
    expect_exit(&output, 0, &["is empty", "drained 0"]);
    assert_eq!(read_records(bootstrap, ROOM_TOPIC).len(), 500);
}

fn drain_publishes_nothing_twice() {
    let leftover = LeftoverSpool::new();
    let values: Vec<_> = (0..50).map(room_event).collect();
    let entries: Vec<_> = values
        .iter()
        .map(|value| (ROOM, plain_entry(value)))
        .collect();
    let last = *leftover.add(&entries).last().expect("fifty");
    // As if killed after Kafka had stored everything and before that was recorded.
    leftover
        .open()
        .record_handover(ROOM, last, &[])
        .expect("handed");
    let before = leftover.copy();
    let kafka = start_broker();
    let bootstrap = kafka.bootstrap_servers();
    let drain = |leftover: &LeftoverSpool| {
        leftover
            .drain(bootstrap, &["--within", "20s"])
            .output()
            .expect("it runs")
    };
    expect_exit(&drain(&leftover), 0, &["drained 50, already stored 0"]);
    expect_exit(&drain(&before), 0, &["drained 0, already stored 50"]);
    expect_rooms(bootstrap, ROOM_TOPIC, &values);
}

fn drain_sets_aside_what_can_never_be_published() {
    let leftover = LeftoverSpool::new();
    leftover.add(&[
        (ROOM, plain_entry("{\"no\":\"event\"}")),
        (ROOM, plain_entry(&room_event(1))),
    ]);
    let kafka = start_broker();
    let output = leftover
        .drain(kafka.bootstrap_servers(), &["--within", "20s"])
        .output();
    let output = output.expect("it runs");
    expect_exit(
        &output,
        1,
        &[
            "drained 1",
            "set aside 1",
            "SET ASIDE: 1 entries",
            "--set-aside",
        ],
    );
    let lines = parse_json_lines(&leftover.run_command("export", &["--set-aside"]));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["value"], serde_json::json!({ "no": "event" }));
    assert!(
        lines[0]["set_aside"]["reason"]
            .as_str()
            .unwrap()
            .contains("not a valid event")
    );
}

fn drain_gives_up_in_time_and_keeps_everything() {
    let (leftover, _) = filled_spool();
    let nobody = free_address().to_string();
    let output = leftover
        .drain(&nobody, &["--within", "1s"])
        .output()
        .expect("it runs");
    expect_exit(
        &output,
        1,
        &[
            "not empty within 1s: 5 entries are left",
            "all of them on disk",
            "Kafka was not reached",
        ],
    );
    expect_exit(&leftover.run_command("verify", &[]), 0, &["read 5 entries"]);
}

fn drain_ends_at_the_first_signal_and_keeps_everything() {
    let (leftover, _) = filled_spool();
    let mut process = BridgeProcess::start(&mut leftover.drain(&free_address().to_string(), &[]));
    process.wait_for("the drain has begun", |output| {
        output.contains("Kafka is not reach").then_some(())
    });
    assert!(process.is_running());
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(1), "{}", process.output());
    assert!(
        process
            .output()
            .contains("stopped before the spool was empty: 5 entries are left")
    );
    expect_exit(&leftover.run_command("verify", &[]), 0, &["read 5 entries"]);
}

fn drain_names_the_topic_that_is_missing() {
    let (leftover, values) = filled_spool();
    let topics = [
        (ROOM_TOPIC.to_owned(), 3),
        ("butlr.quarantine.v1".to_owned(), 1),
    ];
    let kafka = EmbeddedKafka::start(&topics).expect("a broker");
    let bootstrap = kafka.bootstrap_servers();
    let output = leftover
        .drain(bootstrap, &["--within", "6s"])
        .output()
        .expect("it runs");
    expect_exit(
        &output,
        1,
        &[
            "1 entries are left",
            "the topic butlr.event.traffic.v1 is missing",
            "topics --apply",
            "drained 4",
        ],
    );
    assert_eq!(
        read_records(bootstrap, ROOM_TOPIC).len(),
        values.len() - 1,
        "other connections are not delayed"
    );
    assert_eq!(leftover.entries(), 1);
}

fn drain_needs_no_kafka_for_an_empty_spool() {
    let leftover = LeftoverSpool::new();
    drop(leftover.open());
    let output = leftover
        .drain(&free_address().to_string(), &[])
        .output()
        .expect("it runs");
    expect_exit(&output, 0, &["is empty", "drained 0"]);
}

fn drain_empties_it_into_a_real_kafka() {
    let leftover = LeftoverSpool::new();
    let values: Vec<_> = (0..5_000).map(room_event).collect();
    let entries: Vec<_> = values
        .iter()
        .map(|value| (ROOM, plain_entry(value)))
        .collect();
    let last = *leftover.add(&entries).last().expect("many");
    leftover
        .open()
        .record_handover(ROOM, last, &[])
        .expect("handed");
    let before = leftover.copy();
    let (bootstrap, name) = (kafka_address(), unique_name("spool-drain"));
    let template = format!("topics.template={name}.{{type}}");
    let topic = format!("{name}.room-occupancy");
    create_topics(&bootstrap, &[&topic], 3, &[]);
    let drain = |leftover: &LeftoverSpool| {
        let arguments = ["--within", "60s", "--set", &template];
        leftover
            .drain(&bootstrap, &arguments)
            .output()
            .expect("it runs")
    };
    expect_exit(&drain(&leftover), 0, &["drained 5000, already stored 0"]);
    expect_exit(&drain(&before), 0, &["drained 0, already stored 5000"]);
    expect_rooms(&bootstrap, &topic, &values);
    delete_topics(&bootstrap, &[&topic]);
}
