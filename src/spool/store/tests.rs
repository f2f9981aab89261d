//! The store on disks that fail, lose and return wrong bytes.

mod compact;
mod crashes;
mod damage;
mod ledger;
mod model;
mod plain;
mod sequences;

use std::{fs, path::Path, sync::Arc};

use butlr_event::EventType;
use butlr_event::destination::Destination;

use super::{OpenReport, Options, ReadLimit, SpoolStore, disk::StoreDisk};
use crate::spool::entry::{EntryContent, SpoolEntry};

const TRAFFIC: Destination = Destination::Events(EventType::Traffic);
const MOTION: Destination = Destination::Events(EventType::PirMotion);

fn options(dir: &Path, segment_bytes: u64) -> Options {
    Options {
        dir: dir.to_owned(),
        segment_bytes,
    }
}

fn open(dir: &Path) -> (SpoolStore, OpenReport) {
    SpoolStore::open(options(dir, 256 << 10)).unwrap()
}

fn open_on(disk: &Arc<dyn StoreDisk>, segment_bytes: u64) -> (SpoolStore, OpenReport) {
    SpoolStore::open_on(
        Arc::clone(disk),
        options(Path::new("/spool"), segment_bytes),
        false,
    )
    .unwrap()
}

/// An entry about as long as an event, different for each `number`.
fn value(number: u64) -> Vec<u8> {
    let content = EntryContent::Event {
        marks: Default::default(),
        replayed_from: None,
    };
    let value = format!(
        "{{\"id\":\"{number}\",\"filling\":\"{}\"}}",
        "x".repeat(700 + number as usize % 200)
    );
    let received_ms = 1_700_000_000_000 + number as i64;
    SpoolEntry {
        received_ms,
        in_doubt: false,
        content,
        value: value.into_bytes().into(),
    }
    .encode()
}

fn batch(to: Destination, numbers: std::ops::Range<u64>) -> Vec<(Destination, Vec<u8>)> {
    numbers.map(|number| (to, value(number))).collect()
}

fn limit(entries: usize, bytes: usize) -> ReadLimit {
    ReadLimit { entries, bytes }
}

fn all(store: &SpoolStore, to: Destination) -> Vec<(u64, Vec<u8>)> {
    store.read(to, 0, limit(usize::MAX, usize::MAX)).unwrap()
}

fn values(store: &SpoolStore, to: Destination) -> Vec<Vec<u8>> {
    all(store, to).into_iter().map(|(_, value)| value).collect()
}

fn expected(numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    numbers.into_iter().map(value).collect()
}

/// Names of the files in `dir`, sorted.
fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in files(from) {
        if from.join(&name).is_file() {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}
