//! Benchmark program: what an embedded store costs as the spool's, redb with a file a segment beside fjall with a keyspace a segment.
//! Prints, as Markdown: group commits beside a bare file's appends, filling and draining, how long a start takes after a kill, and
//! what damage does to a segment. Events and directory are its arguments: `bench-spool-stores [events] [directory]`; it needs 1.7 KB
//! of room an event while it runs, and removes all that it wrote.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fjall::{KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};
use xxhash_rust::xxh3::xxh3_64;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A new segment is begun beyond so many bytes of values.
const SEGMENT_BYTES: u64 = 32 << 20;

const CACHE_BYTES: usize = 8 << 20;

/// Destinations that entries are of, in no order.
const DESTINATIONS: u64 = 10;

/// Of an entry's value, without its checksum.
const VALUE_BYTES: usize = 900;

const READ_AT_A_TIME: usize = 1000;

/// Figures of group commits are the median of so many rounds, in which the stores take turns.
const ROUNDS: usize = 3;

const ROUND: Duration = Duration::from_secs(1);

const TABLE: TableDefinition<(u8, u64), &[u8]> = TableDefinition::new("entries");

struct Entry {
    destination: u8,
    seq: u64,
    /// An event, and its xxh3.
    value: Vec<u8>,
}

/// Makes entries that compress as events do: the same names over and over, ids that are new each time.
fn entry(seq: u64) -> Entry {
    let id = |salt: u64, number: u64| {
        let hash = |half: u64| xxh3_64(&[number, salt, half].map(u64::to_le_bytes).concat());
        format!("{:016x}{:010x}", hash(0), hash(1) >> 24)
    };
    let space = |salt| id(salt, seq % 50);
    let [org, site, building, floor, room] = [1, 2, 3, 4, 5].map(space);
    let (event, hive, sensor) = (id(6, seq), id(7, seq % 500), id(8, seq % 5000));
    let at = 1_727_735_832_000 + seq;
    let mut value = format!(
        r#"{{"id":"event_{event}","type":"DETECTIONS","timestamp":{at},"version":"v1.0.0","metadata":{{"org_id":"org_{org}","site_id":"site_{site}","building_id":"building_{building}","floor_id":"space_{floor}","room_id":"room_{room}","floor_custom_id":"L2","room_custom_id":"P4-L2-QR","hive_id":"hive_{hive}","sensor_id":"{sensor}","org_name":"Harbour Works","site_name":"Rotterdam","building_name":"Pier 4","floor_name":"Level 2","room_name":"Quay Room","hive_serial":"3f19c02be77d4a51","mac_address":"00-17-0d-00-00-5e-19-c4","sensor_mode":"presence","sensor_model":"Heatic 2+","hive_model":"2.0","hive_version":"2.4.4"}},"data":{{"local":[[0.5625,0.125]],"world":[[85.694195,27.829299]]}}}}"#
    )
    .into_bytes();
    value.resize(VALUE_BYTES, b' ');
    value.extend_from_slice(&xxh3_64(&value).to_le_bytes());
    Entry {
        destination: (xxh3_64(&seq.to_le_bytes()) % DESTINATIONS) as u8,
        seq,
        value,
    }
}

fn entries(first: u64, many: u64) -> Vec<Entry> {
    (first..first + many).map(entry).collect()
}

fn is_intact(value: &[u8]) -> bool {
    value
        .split_last_chunk()
        .is_some_and(|(value, sum)| xxh3_64(value) == u64::from_le_bytes(*sum))
}

/// What was read.
#[derive(Default)]
struct Read {
    intact: u64,
    wrong: u64,
    /// Segments that could not be read, or not to their ends.
    refused: u64,
}

impl Read {
    fn count(&mut self, value: &[u8]) {
        match is_intact(value) {
            true => self.intact += 1,
            false => self.wrong += 1,
        }
    }
}

trait Store {
    /// One commit, durable on return.
    fn append(&mut self, entries: Vec<Entry>) -> Outcome<()>;
    /// Reads everything in order; segments that were read are retired if `retire`.
    fn read(&mut self, retire: bool, read: &mut Read) -> Outcome<()>;
    /// Everything is written and closed.
    fn close(self: Box<Self>) -> Outcome<()>;
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Append,
    Redb(Commit),
    Fjall(PersistMode),
}

#[derive(Clone, Copy, PartialEq)]
enum Commit {
    Insert,
    /// Through a cursor at each destination's end: fuller pages.
    InsertBefore,
    TwoPhase,
    QuickRepair,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Append,
        Self::Redb(Commit::Insert),
        Self::Redb(Commit::InsertBefore),
        Self::Redb(Commit::TwoPhase),
        Self::Redb(Commit::QuickRepair),
        Self::Fjall(PersistMode::SyncData),
        Self::Fjall(PersistMode::SyncAll),
    ];

    /// Those that are filled.
    const FILLED: [Self; 3] = [
        Self::Redb(Commit::Insert),
        Self::Redb(Commit::InsertBefore),
        Self::Fjall(PersistMode::SyncData),
    ];

    /// Those that are damaged.
    const DAMAGED: [Self; 2] = [
        Self::Redb(Commit::InsertBefore),
        Self::Fjall(PersistMode::SyncData),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Append => "file, fdatasync",
            Self::Redb(Commit::Insert) => "redb",
            Self::Redb(Commit::InsertBefore) => "redb, insert_before",
            Self::Redb(Commit::TwoPhase) => "redb, two-phase",
            Self::Redb(Commit::QuickRepair) => "redb, quick repair",
            Self::Fjall(PersistMode::SyncAll) => "fjall, SyncAll",
            Self::Fjall(_) => "fjall, SyncData",
        }
    }

    fn named(name: &str) -> Outcome<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| format!("there is no store {name}").into())
    }

    fn open(self, dir: &Path) -> Outcome<Box<dyn Store>> {
        fs::create_dir_all(dir)?;
        Ok(match self {
            Self::Append => Box::new(Append::open(dir)?),
            Self::Redb(commit) => Box::new(Redb::open(dir, commit)?),
            Self::Fjall(mode) => Box::new(Fjall::open(dir, mode)?),
        })
    }
}

/// The floor: a file that is appended to.
struct Append {
    file: File,
}

impl Append {
    fn open(dir: &Path) -> Outcome<Self> {
        let file = File::create(dir.join("file"))?;
        Ok(Self { file })
    }
}

impl Store for Append {
    fn append(&mut self, entries: Vec<Entry>) -> Outcome<()> {
        let bytes: Vec<u8> = entries.into_iter().flat_map(|entry| entry.value).collect();
        self.file.write_all(&bytes)?;
        Ok(self.file.sync_data()?)
    }

    fn read(&mut self, _: bool, _: &mut Read) -> Outcome<()> {
        Err("is not read".into())
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

/// A segment is a file.
struct Redb {
    dir: PathBuf,
    commit: Commit,
    active: Option<(redb::Database, u64)>,
    last: u64,
}

impl Redb {
    /// Looks into every segment: one that was not closed is repaired.
    fn open(dir: &Path, commit: Commit) -> Outcome<Self> {
        let segments = Self::segments(dir)?;
        for segment in &segments {
            // A damaged one is left to those who read it.
            if let Ok(db) = Self::sealed(segment) {
                db.begin_read()?.open_table(TABLE)?.len()?;
            }
        }
        let last = segments.last().and_then(|path| path.file_stem()?.to_str());
        Ok(Self {
            dir: dir.to_owned(),
            commit,
            active: None,
            last: last.map_or(Ok(0), str::parse)?,
        })
    }

    fn segments(dir: &Path) -> Outcome<Vec<PathBuf>> {
        let mut segments = files(dir)?;
        segments.sort();
        Ok(segments)
    }

    fn builder() -> redb::Builder {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        builder
    }

    /// Read-only: closing a damaged segment that was opened for writing can end the process.
    fn sealed(path: &Path) -> Outcome<redb::ReadOnlyDatabase> {
        match Self::builder().open_read_only(path) {
            Err(redb::DatabaseError::RepairAborted) => {
                Self::builder().open(path)?.close()?;
                Ok(Self::builder().open_read_only(path)?)
            }
            opened => Ok(opened?),
        }
    }

    fn read_segment(path: &Path, read: &mut Read) -> Outcome<()> {
        let db = Self::sealed(path)?;
        let mut next = (0, 0);
        loop {
            let table = db.begin_read()?.open_table(TABLE)?;
            let (from, mut many) = (next, 0);
            for item in table.range(from..)?.take(READ_AT_A_TIME) {
                let (key, value) = item?;
                let (destination, seq) = key.value();
                next = (destination, seq + 1);
                many += 1;
                read.count(value.value());
            }
            if many == 0 {
                return Ok(());
            }
        }
    }

    fn seal(&mut self) -> Outcome<()> {
        match self.active.take() {
            Some((db, _)) => Ok(db.close()?),
            None => Ok(()),
        }
    }

    fn insert(&self, db: &redb::Database, mut entries: Vec<Entry>) -> Outcome<()> {
        let mut write = db.begin_write()?;
        write.set_two_phase_commit(self.commit == Commit::TwoPhase);
        write.set_quick_repair(self.commit == Commit::QuickRepair);
        let mut table = write.open_table(TABLE)?;
        entries.sort_by_key(|entry| (entry.destination, entry.seq));
        for run in entries.chunk_by(|one, next| one.destination == next.destination) {
            let key = |entry: &Entry| (entry.destination, entry.seq);
            if self.commit != Commit::InsertBefore {
                for entry in run {
                    table.insert(key(entry), entry.value.as_slice())?;
                }
                continue;
            }
            let end = Bound::Included((run[0].destination, u64::MAX));
            let mut cursor = table.upper_bound_mut(end)?;
            for entry in run {
                cursor.insert_before(key(entry), entry.value.as_slice())?;
            }
            cursor.close()?;
        }
        drop(table);
        Ok(write.commit()?)
    }
}

impl Store for Redb {
    fn append(&mut self, entries: Vec<Entry>) -> Outcome<()> {
        let (db, held) = match self.active.take() {
            Some((db, held)) if held < SEGMENT_BYTES => (db, held),
            full => {
                self.active = full;
                self.seal()?;
                self.last += 1;
                let path = self.dir.join(format!("{:08}.redb", self.last));
                let db = Self::builder().create(path)?;
                File::open(&self.dir)?.sync_all()?;
                (db, 0)
            }
        };
        let bytes = bytes_of(&entries);
        self.insert(&db, entries)?;
        self.active = Some((db, held + bytes));
        Ok(())
    }

    fn read(&mut self, retire: bool, read: &mut Read) -> Outcome<()> {
        self.seal()?;
        for segment in Self::segments(&self.dir)? {
            if Self::read_segment(&segment, read).is_err() {
                read.refused += 1;
            }
            if retire {
                fs::remove_file(&segment)?;
                File::open(&self.dir)?.sync_all()?;
            }
        }
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Outcome<()> {
        self.seal()
    }
}

/// A segment is a keyspace; all are in one database, whose journal they share.
struct Fjall {
    db: fjall::Database,
    mode: PersistMode,
    active: Option<(fjall::Keyspace, u64)>,
    last: u64,
}

impl Fjall {
    fn open(dir: &Path, mode: PersistMode) -> Outcome<Self> {
        let builder = fjall::Database::builder(dir).cache_size(CACHE_BYTES as u64);
        let db = builder.max_journaling_size(128 << 20).open()?;
        let names = db.list_keyspace_names();
        let last = names.iter().max().map_or(Ok(0), |name| name.parse())?;
        Ok(Self {
            db,
            mode,
            active: None,
            last,
        })
    }

    fn segment(&self, name: &str) -> Outcome<fjall::Keyspace> {
        Ok(self.db.keyspace(name, KeyspaceCreateOptions::default)?)
    }

    fn read_segment(segment: &fjall::Keyspace, read: &mut Read) -> Outcome<()> {
        let mut next = vec![];
        loop {
            let (from, mut many) = (next.clone(), 0);
            for guard in segment.range(from..).take(READ_AT_A_TIME) {
                let (key, value) = guard.into_inner()?;
                next = [&key[..], &[0]].concat();
                many += 1;
                read.count(&value);
            }
            if many == 0 {
                return Ok(());
            }
        }
    }
}

impl Store for Fjall {
    fn append(&mut self, entries: Vec<Entry>) -> Outcome<()> {
        let (segment, held) = match self.active.take() {
            Some((segment, held)) if held < SEGMENT_BYTES => (segment, held),
            full => {
                if let Some((full, _)) = full {
                    full.rotate_memtable()?;
                }
                self.last += 1;
                (self.segment(&format!("{:08}", self.last))?, 0)
            }
        };
        let bytes = bytes_of(&entries);
        let mut batch = self.db.batch().durability(Some(self.mode));
        for entry in entries {
            let mut key = vec![entry.destination];
            key.extend_from_slice(&entry.seq.to_be_bytes());
            batch.insert(&segment, key, entry.value);
        }
        batch.commit()?;
        self.active = Some((segment, held + bytes));
        Ok(())
    }

    fn read(&mut self, retire: bool, read: &mut Read) -> Outcome<()> {
        self.active = None;
        let mut names = self.db.list_keyspace_names();
        names.sort();
        for name in names {
            let segment = self.segment(&name)?;
            if Self::read_segment(&segment, read).is_err() {
                read.refused += 1;
            }
            if retire {
                self.db.delete_keyspace(segment)?;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

fn bytes_of(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.value.len() as u64).sum()
}

/// All files below a directory.
fn files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

/// Blocks that are allocated, not lengths: both stores' files have holes.
fn on_disk(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for file in files(dir)? {
        // fjall removes files meanwhile.
        bytes += file.metadata().map_or(0, |file| file.blocks() * 512);
    }
    Ok(bytes)
}

/// The most memory that this process had, in MiB.
fn resident_peak() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmHWM")?.parse::<u64>()? >> 10)
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// One round's entries/s, and milliseconds a commit: the median and the 99th percentile.
fn commit_round(kind: Kind, dir: &Path, many: u64) -> Outcome<[f64; 3]> {
    let mut store = kind.open(dir)?;
    let (mut seq, mut took) = (0, Vec::new());
    let start = Instant::now();
    while start.elapsed() < ROUND {
        let batch = entries(seq, many);
        let start = Instant::now();
        store.append(batch)?;
        took.push(start.elapsed().as_secs_f64());
        seq += many;
    }
    store.close()?;
    fs::remove_dir_all(dir)?;
    let per_second = seq as f64 / took.iter().sum::<f64>();
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took[took.len() * percent / 100] * 1e3;
    Ok([per_second, at(50), at(99)])
}

fn commits(dir: &Path) -> Outcome<()> {
    println!("| entries a commit | store | entries/s | ms p50 | ms p99 | p50 ÷ file's |");
    println!("|---:|---|---:|---:|---:|---:|");
    for many in [1, 16, 64, 256, 1000] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let round = Kind::ALL.map(|kind| commit_round(kind, &dir.join("commits"), many));
            rounds.push(round.into_iter().collect::<Outcome<Vec<_>>>()?);
        }
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            let of = |figure: usize| median(rounds.iter().map(|round| round[place][figure]));
            let ratio = median(rounds.iter().map(|round| round[place][1] / round[0][1]));
            println!(
                "| {many} | {} | {:.0} | {:.2} | {:.2} | {ratio:.2} |",
                kind.name(),
                of(0),
                of(1),
                of(2),
            );
        }
    }
    Ok(())
}

/// This program again, so that it has its own memory and can be killed.
fn again(job: &str, kind: Kind, dir: &Path, events: u64) -> Command {
    let mut command = Command::new(env::current_exe().expect("it runs"));
    command.args([job, kind.name(), &events.to_string()]);
    command
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// What another process printed.
fn run(job: &str, kind: Kind, dir: &Path, events: u64) -> Outcome<String> {
    let output = again(job, kind, dir, events).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?.trim().to_owned()),
        false => Err(format!("{job} of {} ended with {}", kind.name(), output.status).into()),
    }
}

fn fill(kind: Kind, dir: &Path, events: u64) -> Outcome<()> {
    const AT_A_TIME: u64 = 256;
    const LOOK_EVERY: u64 = 100 * AT_A_TIME;
    let mut store = kind.open(dir)?;
    let (mut busy, mut payload, mut peak) = (Duration::ZERO, 0, 0);
    for seq in (0..events).step_by(AT_A_TIME as usize) {
        let batch = entries(seq, AT_A_TIME.min(events - seq));
        payload += bytes_of(&batch);
        let start = Instant::now();
        store.append(batch)?;
        busy += start.elapsed();
        if seq % LOOK_EVERY == 0 {
            peak = peak.max(on_disk(dir)?);
        }
    }
    store.close()?;
    let full = on_disk(dir)?;
    println!(
        "{:.0} | {:.2} | {:.2} | {}",
        events as f64 / busy.as_secs_f64(),
        full as f64 / payload as f64,
        peak.max(full) as f64 / payload as f64,
        resident_peak()?,
    );
    Ok(())
}

fn drain(kind: Kind, dir: &Path, events: u64) -> Outcome<()> {
    let mut store = kind.open(dir)?;
    let (start, mut read) = (Instant::now(), Read::default());
    store.read(true, &mut read)?;
    let took = start.elapsed();
    if read.intact != events {
        return Err(format!("{} of {events} were there", read.intact).into());
    }
    store.close()?;
    println!(
        "{:.0} | {} | {}",
        events as f64 / took.as_secs_f64(),
        on_disk(dir)? >> 20,
        resident_peak()?,
    );
    Ok(())
}

fn fill_and_drain(dir: &Path, events: u64) -> Outcome<()> {
    println!(
        "\n| {events} events | filled, entries/s | on disk ÷ values | at its peak | MiB resident | drained, entries/s | MiB on disk after | MiB resident |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let dir = dir.join("filled");
    for kind in Kind::FILLED {
        let filled = run("fill", kind, &dir, events)?;
        let drained = run("drain", kind, &dir, events)?;
        println!("| {} | {filled} | {drained} |", kind.name());
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Appends until it is killed, and tells after each commit how many entries are durable.
fn endless(kind: Kind, dir: &Path) -> Outcome<()> {
    const AT_A_TIME: u64 = 64;
    let mut store = kind.open(dir)?;
    for first in (0..).step_by(AT_A_TIME as usize) {
        store.append(entries(first, AT_A_TIME))?;
        println!("{}", first + AT_A_TIME);
    }
    Ok(())
}

/// How many entries were told as durable before the process was killed.
fn fill_and_kill(kind: Kind, dir: &Path, events: u64) -> Outcome<u64> {
    let mut child: Child = again("endless", kind, dir, 0).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut durable = 0;
    while durable < events {
        durable = lines.next().ok_or("it ended too early")??.parse()?;
    }
    child.kill()?;
    child.wait()?;
    // It went on until it was killed; its last line may be torn.
    let more = lines
        .map_while(Result::ok)
        .filter_map(|line| line.parse().ok());
    Ok(more.max().unwrap_or(durable))
}

/// Until a store is open, and until its entries were read.
fn start(kind: Kind, dir: &Path, durable: u64) -> Outcome<()> {
    let start = Instant::now();
    let mut store = kind.open(dir)?;
    let opened = start.elapsed();
    let (resident, mut read) = (resident_peak()?, Read::default());
    store.read(false, &mut read)?;
    if read.intact < durable {
        return Err(format!("{} of {durable} durable ones were there", read.intact).into());
    }
    println!(
        "{:.0} | {resident} | {:.1}",
        opened.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64(),
    );
    Ok(())
}

fn recovery(dir: &Path, events: u64) -> Outcome<()> {
    println!(
        "\n| killed after {events} events | ms until open | MiB resident | s until all are read |"
    );
    println!("|---|---:|---:|---:|");
    let dir = dir.join("killed");
    for kind in Kind::FILLED {
        let durable = fill_and_kill(kind, &dir, events)?;
        println!(
            "| {} | {} |",
            kind.name(),
            run("start", kind, &dir, durable)?
        );
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// The file that is damaged.
#[derive(Clone, Copy)]
enum Target {
    /// Of redb the segment that was not closed, of fjall the journal.
    Latest,
    /// Of redb a sealed file, of fjall a table.
    First,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Latest => "written last",
            Self::First => "of the first segment",
        }
    }

    fn choose(self, dir: &Path) -> Outcome<PathBuf> {
        let mut files = files(dir)?;
        files.retain(|file| match self {
            Self::Latest => file.extension().is_some_and(|e| e == "redb" || e == "jnl"),
            Self::First => {
                file.ends_with("00000001.redb") || file.ends_with("keyspaces/1/tables/0")
            }
        });
        // fjall's numbers have no leading zeros.
        files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
        files.pop().ok_or_else(|| "there is no such file".into())
    }
}

/// What is done to it.
#[derive(Clone, Copy, PartialEq)]
enum Damage {
    KibCutOff,
    HalfCutOff,
    BitFlipped,
    Deleted,
}

impl Damage {
    const ALL: [(Self, &str); 4] = [
        (Self::KibCutOff, "last KiB cut off"),
        (Self::HalfCutOff, "half cut off"),
        (Self::BitFlipped, "a bit flipped"),
        (Self::Deleted, "deleted"),
    ];

    /// How many places it is done at, each time to a sound store.
    fn places(self) -> u64 {
        if self == Self::BitFlipped { 20 } else { 1 }
    }

    fn apply(self, file: &Path, place: u64) -> Outcome<()> {
        let mut bytes = fs::read(file)?;
        // Both stores' files can end in a hole.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let cut = |bytes| OpenOptions::new().write(true).open(file)?.set_len(bytes);
        match self {
            Self::KibCutOff => cut(end.saturating_sub(1 << 10))?,
            Self::HalfCutOff => cut(end / 2)?,
            Self::BitFlipped => {
                let at = xxh3_64(&place.to_le_bytes()) % end;
                bytes[at as usize] ^= 1 << (place % 8);
                fs::write(file, bytes)?;
            }
            Self::Deleted => fs::remove_file(file)?,
        }
        Ok(())
    }
}

/// Prints how many entries come back, how many are wrong, and what the store says to it.
fn look(kind: Kind, dir: &Path) -> Outcome<()> {
    let mut read = Read::default();
    let looked = catch_unwind(AssertUnwindSafe(|| kind.open(dir)?.read(false, &mut read)));
    let says = match looked {
        Ok(Ok(())) if read.refused == 0 => "ok",
        Ok(Ok(())) => "error in one segment",
        Ok(Err(_)) => "error, nothing opens",
        Err(_) => "panic",
    };
    println!("{} {} {says}", read.intact, read.wrong);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let path = item?.path();
        let to = to.join(path.file_name().ok_or("no name")?);
        match path.is_dir() {
            true => copy(&path, &to)?,
            false => drop(fs::copy(&path, &to)?),
        }
    }
    Ok(())
}

/// One row: each place on a copy of its own.
fn examine(
    kind: Kind,
    sound: &Path,
    file: Target,
    damage: Damage,
    durable: u64,
) -> Outcome<String> {
    let copied = sound.with_extension("copy");
    let (mut said, mut most_lost, mut wrong) = (BTreeMap::new(), 0, 0);
    for place in 0..damage.places() {
        copy(sound, &copied)?;
        damage.apply(&file.choose(&copied)?, place)?;
        // A panic in a destructor aborts.
        let looked = run("look", kind, &copied, 0);
        let looked = looked.unwrap_or_else(|_| "0 0 the process ends".to_owned());
        fs::remove_dir_all(&copied)?;
        let [intact, handed_out, says] = looked.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            return Err(looked.into());
        };
        most_lost = durable.saturating_sub(intact.parse()?).max(most_lost);
        wrong += handed_out.parse::<u64>()?;
        *said.entry(says.to_owned()).or_insert(0) += 1;
    }
    let said = said.iter().map(|(says, times)| format!("{times} × {says}"));
    let said = said.collect::<Vec<_>>().join(", ");
    Ok(format!("{said} | {most_lost} | {wrong}"))
}

fn damages(dir: &Path) -> Outcome<()> {
    /// Some segments of them.
    const EVENTS: u64 = 100_000;
    println!(
        "\n| {EVENTS} events, killed; to the file | store | it says | lost at most | handed out wrong |"
    );
    println!("|---|---|---|---:|---:|");
    let dir = dir.join("damaged");
    for kind in Kind::DAMAGED {
        let durable = fill_and_kill(kind, &dir, EVENTS)?;
        for file in [Target::Latest, Target::First] {
            for (damage, name) in Damage::ALL {
                let row = examine(kind, &dir, file, damage, durable)?;
                println!("| {}: {name} | {} | {row} |", file.name(), kind.name());
            }
        }
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [job, kind, events, dir] = args.as_slice() {
        let (kind, events, dir) = (Kind::named(kind)?, events.parse()?, Path::new(dir));
        return match job.as_str() {
            "fill" => fill(kind, dir, events),
            "drain" => drain(kind, dir, events),
            "endless" => endless(kind, dir),
            "start" => start(kind, dir, events),
            "look" => look(kind, dir),
            other => Err(format!("there is no job {other}").into()),
        };
    }
    let events = args
        .first()
        .map_or(Ok(1_000_000), |events| events.parse())?;
    let parent = args.get(1).map_or_else(env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("spool-stores-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let measured = commits(&dir)
        .and_then(|()| fill_and_drain(&dir, events))
        .and_then(|()| recovery(&dir, events))
        .and_then(|()| damages(&dir));
    fs::remove_dir_all(&dir)?;
    measured
}
