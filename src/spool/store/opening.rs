//! Opening a store: an open never fails because of damage.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    DAMAGED_DIR, DamagedFile, MANIFEST_FILE, OpenError, OpenReport, Options, SpoolStore,
    dead_letters::DEAD_LETTER_FILE,
    disk::StoreDisk,
    file::{FileError, SegmentFile},
    frame::salvage,
    is_unfinished, lock,
    manifest::{self, Manifest, WrittenHandover},
    parse_segment_number, segment_name,
    state::{Segment, StoreState, place_of, segment_of},
    writing::{AppendTarget, received_ms},
};
use butlr_event::destination::Destination;

/// Bytes of sealed segments that are checked at opening; the others are checked when they are
/// drained.
const MAX_CHECKED_BYTES: u64 = 256 << 20;

#[derive(Default)]
struct DirectoryListing {
    segments: Vec<(u32, u64)>,
    retired: Vec<u32>,
    unfinished: Vec<String>,
    /// Greater than any number found.
    next_segment: u32,
}

/// Returns `true` if a directory holds another program's manifest and nothing of a spool: a
/// mistyped directory is left alone.
fn is_foreign(disk: &dyn StoreDisk, dir: &Path) -> bool {
    let is_foreign = |bytes: Vec<u8>| !manifest::is_manifest(&bytes);
    let is_ours = |(name, _): &(String, u64)| {
        let is_numbered = |extension| parse_segment_number(name, extension).is_some();
        name == DEAD_LETTER_FILE || is_numbered("redb") || is_numbered("retired")
    };
    disk.read(&dir.join(MANIFEST_FILE)).is_ok_and(is_foreign)
        && !disk.list(dir).unwrap_or_default().iter().any(is_ours)
        && disk.list(&dir.join(DAMAGED_DIR)).is_err()
}

impl SpoolStore {
    pub(super) fn open_on(
        disk: Arc<dyn StoreDisk>,
        options: Options,
        read_only: bool,
    ) -> Result<(Self, OpenReport), OpenError> {
        let begun = Instant::now();
        let dir = options.dir.display().to_string();
        let io = |source| OpenError::Io {
            dir: dir.clone(),
            source,
        };
        if is_foreign(&*disk, &options.dir) {
            return Err(OpenError::Foreign { dir });
        }
        let mut directory_lock = None;
        if !read_only {
            disk.create_dir(&options.dir).map_err(io)?;
            let locked = disk.lock(&options.dir.join("lock")).map_err(io)?;
            directory_lock = Some(locked.ok_or_else(|| OpenError::Locked { dir: dir.clone() })?);
        }
        let mut store = Self {
            disk,
            dir: options.dir,
            segment_bytes: options.segment_bytes.min(super::MAX_SEGMENT_BYTES),
            compact_above: u64::MAX,
            read_only,
            append_target: Mutex::new(AppendTarget::Unwritable("it is not open yet".to_owned())),
            active: RwLock::new(None),
            readers: Mutex::new(Vec::new()),
            manifest: Mutex::new(()),
            dead_letter_file: Mutex::default(),
            dead_letter_bytes: AtomicU64::new(0),
            dead_letter_count: AtomicU64::new(0),
            state: Mutex::new(StoreState::default()),
            present: Default::default(),
            lost: Default::default(),
            damaged: Mutex::new(Vec::new()),
            unfinished: AtomicU64::new(0),
            handovers_at_open: Default::default(),
            _lock: directory_lock,
        };
        let listing = store.list_directory().map_err(io)?;
        let missing = store.load_segments(listing);
        store.begin_writing();
        Ok(store.into_opened(missing, begun))
    }

    fn list_directory(&self) -> Result<DirectoryListing, std::io::Error> {
        let mut listing = DirectoryListing {
            next_segment: 1,
            ..DirectoryListing::default()
        };
        let mut last = 0;
        for (name, len) in self.disk.list(&self.dir)? {
            if is_unfinished(&name) {
                listing.unfinished.push(name);
            } else if let Some(number) = parse_segment_number(&name, "redb") {
                listing.segments.push((number, len));
                last = last.max(number);
            } else if let Some(number) = parse_segment_number(&name, "retired") {
                listing.retired.push(number);
                last = last.max(number);
            }
        }
        for (name, _) in self.disk.list(&self.path(DAMAGED_DIR)).unwrap_or_default() {
            let number = name
                .split('.')
                .next()
                .and_then(|number| number.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        listing.segments.sort_unstable();
        listing.next_segment = last.saturating_add(1);
        Ok(listing)
    }

    /// Loads and checks the segments. Returns the names of missing files.
    fn load_segments(&mut self, listing: DirectoryListing) -> Vec<String> {
        if !self.read_only {
            for name in &listing.unfinished {
                let _ = self.disk.remove(&self.path(name));
            }
        }
        let mut missing = Vec::new();
        let manifest = self.load_manifest(&listing, &mut missing);
        let segments = listing.segments.iter().map(|(number, _)| number);
        let existing: BTreeSet<&u32> = segments.chain(&listing.retired).collect();
        for written in &manifest.segments {
            if existing.contains(&written.number) {
                continue;
            }
            // Its name was durable before the manifest listed it. The entries of a segment that was
            // still written are not counted in the manifest.
            let lost: Option<u64> = written.sealed.map(|_| written.live.iter().sum());
            tracing::error!(
                file = segment_name(written.number),
                lost,
                "a file of the spool is missing"
            );
            missing.push(segment_name(written.number));
        }
        {
            let mut state = self.state();
            state.next_segment = manifest.next_segment.max(listing.next_segment);
            state.retired = listing.retired;
            for handover in manifest.handed {
                if handover.to < Destination::COUNT {
                    state.handovers[handover.to].push(handover);
                }
            }
        }
        self.handovers_at_open = std::array::from_fn(|to| self.state().handover_mark(to));
        // All segments before the first check: a repair writes the manifest.
        for (number, len) in &listing.segments {
            let written = manifest
                .segments
                .iter()
                .find(|written| written.number == *number);
            let segment = match written {
                Some(written) => Segment::from_written(written, *len),
                None => Segment::new(super::SegmentStage::Sealed(None), *len),
            };
            for (present, live) in self.present.iter().zip(segment.live) {
                present.fetch_add(live, Relaxed);
            }
            self.state().segments.insert(*number, segment);
        }
        let mut to_check = MAX_CHECKED_BYTES;
        for (number, len) in listing.segments {
            self.check_segment(number, len, &mut to_check);
        }
        self.remove_dead_lettered();
        missing
    }

    /// Loads the manifest. Without one, every entry may have been handed to Kafka.
    fn load_manifest(&self, listing: &DirectoryListing, missing: &mut Vec<String>) -> Manifest {
        let why = match self.disk.read(&self.path(MANIFEST_FILE)) {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => return manifest,
                Err(why) => why,
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The first segment is begun only after a manifest was written.
                if listing.segments.is_empty() {
                    return Manifest::default();
                }
                missing.push(MANIFEST_FILE.to_owned());
                return Self::unknown_manifest();
            }
            Err(error) => error.to_string(),
        };
        let moved_to = self.preserve_damaged(MANIFEST_FILE);
        self.report_damaged(DamagedFile::new(MANIFEST_FILE, why, moved_to), None);
        Self::unknown_manifest()
    }

    fn unknown_manifest() -> Manifest {
        let all = |to| WrittenHandover {
            to,
            upto: u64::MAX,
            tails: Vec::new(),
        };
        Manifest {
            handed: (0..Destination::COUNT).map(all).collect(),
            ..Manifest::default()
        }
    }

    fn check_segment(&self, number: u32, len: u64, to_check: &mut u64) {
        let sealed = match self.state().segments.get(&number) {
            Some(segment) => segment.sealed_len(),
            None => return,
        };
        let checked = match sealed {
            Some(sealed) if sealed != len => {
                Err(FileError(format!("it is {len} bytes long, not {sealed}")))
            }
            Some(_) if *to_check < len => Ok(()),
            Some(_) => {
                *to_check -= len;
                self.with_file(number, |_| Ok(()))
            }
            None => self.count_rows(number),
        };
        if let Err(FileError(why)) = checked
            && let Err(error) = self.repair(number, &why)
        {
            self.abandon_segment(number, &format!("{why}; {error}"));
        }
    }

    /// Counts the rows of a segment that was not closed. Rows that redb does not know belong to its
    /// last commit, which was interrupted, or whose page is damaged: complete ones are added.
    fn count_rows(&self, number: u32) -> Result<(), FileError> {
        let path = self.segment_path(number);
        let file = SegmentFile::read_only(self.disk.open_read_only(&path)?)?;
        let mut rows = BTreeSet::new();
        let mut first_ms = None;
        let mut broken = false;
        for to in 0..Destination::COUNT {
            file.scan(to, 0, |seq, row| {
                match row {
                    Ok(_) if segment_of(seq) != number => broken = true,
                    Ok(bytes) => {
                        if rows.first().is_none_or(|(_, first)| seq < *first) {
                            first_ms = received_ms(bytes).or(first_ms);
                        }
                        rows.insert((to, seq));
                    }
                    Err(_) => broken = true,
                }
                ControlFlow::Continue(())
            })?;
        }
        drop(file);
        if broken {
            return Err(FileError("an entry's checksum does not match".to_owned()));
        }
        let bytes = self.disk.read(&path)?;
        let found = salvage(&bytes, |seq| segment_of(seq) == number);
        if !rows.iter().all(|row| found.whole.contains_key(row)) {
            return Err(FileError("it changes while it is read".to_owned()));
        }
        let unfinished = found.whole.len() - rows.len();
        rows.extend(found.whole.keys());
        self.record_counts(number, &rows, first_ms)?;
        if found.torn > 0 {
            self.report_torn(number, found.torn);
        }
        self.unfinished.fetch_add(unfinished as u64, Relaxed);
        let is_rewritten = !self.read_only && self.rewrite_segment(number, &found.whole);
        // redb may not know all rows of the old file.
        let in_memory = if is_rewritten || (self.read_only && unfinished == 0) {
            None
        } else {
            Some(Self::build_in_memory(&found.whole)?)
        };
        let len = self.disk.len(&path).ok();
        if let Some(segment) = self.state().segments.get_mut(&number) {
            segment.stage = super::SegmentStage::Sealed(len.filter(|_| is_rewritten));
            segment.bytes = len.unwrap_or(segment.bytes);
            segment.in_memory = in_memory;
        }
        Ok(())
    }

    /// Writes the rows of a segment that was not closed to a new file. If an fsync of the old one
    /// failed, its rows may exist only in the kernel's cache, and no later fsync of that file makes
    /// them durable. Returns `true` on success.
    fn rewrite_segment(&self, number: u32, whole: &super::repair::SegmentRows) -> bool {
        let name = segment_name(number);
        match self.replace_file(&name, whole) {
            Ok(()) => true,
            Err(FileError(why)) => {
                tracing::error!(
                    file = name,
                    why,
                    "could not rewrite a file of the spool that was not closed: a power failure may cost its last entries"
                );
                false
            }
        }
    }

    /// Reports incomplete rows of the last commit: a power failure interrupted it, or they are
    /// damaged.
    fn report_torn(&self, number: u32, torn: usize) {
        let file = segment_name(number);
        let moved_to = self.preserve_damaged(&file);
        let why = format!(
            "{torn} entries at its end are incomplete: the power failed while they were written, or they were damaged since"
        );
        self.report_damaged(DamagedFile::new(&file, why, moved_to), None);
    }

    /// Records the counts of a segment's rows; an error if there are fewer than the manifest has.
    fn record_counts(
        &self,
        number: u32,
        rows: &BTreeSet<(usize, u64)>,
        first_ms: Option<i64>,
    ) -> Result<(), FileError> {
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let Some(segment) = state.segments.get_mut(&number) else {
            return Ok(());
        };
        let mut counts = [0; Destination::COUNT];
        rows.iter().for_each(|(to, _)| counts[*to] += 1);
        if counts
            .iter()
            .zip(segment.rows)
            .any(|(read, known)| *read < known)
        {
            let (read, known): (u64, u64) = (counts.iter().sum(), segment.rows.iter().sum());
            let why = format!("it has {read} of at least {known} entries");
            return Err(FileError(why));
        }
        let before = segment.live;
        segment.rows = counts;
        segment.live = [0; Destination::COUNT];
        for (to, seq) in rows {
            segment.live[*to] += u64::from(!segment.removed.contains(place_of(*seq)));
        }
        segment.first_ms = segment.first_ms.or(first_ms);
        segment.bytes = len.unwrap_or(segment.bytes);
        segment.checked = true;
        for ((present, live), before) in self.present.iter().zip(segment.live).zip(before) {
            present.fetch_add(live, Relaxed);
            present.fetch_sub(before, Relaxed);
        }
        Ok(())
    }

    /// Removes entries that are also dead letters: the process ended while it moved them.
    fn remove_dead_lettered(&self) {
        let dead_letters = self.load_dead_letters();
        self.dead_letter_count
            .store(dead_letters.len() as u64, Relaxed);
        for (_, seq) in &dead_letters {
            let mut state = self.state();
            state.next_segment = state.next_segment.max(segment_of(*seq).saturating_add(1));
        }
        let in_both: Vec<_> = dead_letters
            .into_iter()
            .filter(|(_, seq)| self.is_live(*seq))
            .collect();
        if in_both.is_empty() || (!self.read_only && self.make_dead_letters_durable().is_err()) {
            return;
        }
        for (to, seq) in in_both {
            let _ = self.remove(to, &[seq]);
        }
    }

    /// Begins a segment. If the disk is full, the store opens all the same.
    fn begin_writing(&self) {
        if self.read_only {
            return;
        }
        let mut target = lock(&self.append_target);
        let begun = self
            .write_manifest()
            .and_then(|()| self.begin_segment(&mut target))
            .and_then(|()| self.retire_drained());
        if let Err(error) = begun {
            tracing::error!(%error, "cannot write to the spool");
            if let AppendTarget::Unwritable(why) = &mut *target {
                *why = error.to_string();
            }
        }
    }

    fn into_opened(self, missing: Vec<String>, begun: Instant) -> (Self, OpenReport) {
        let segments = self
            .state()
            .segments
            .values()
            .filter(|segment| !segment.is_drained())
            .count();
        let report = OpenReport {
            entries: std::array::from_fn(|to| self.present[to].load(Relaxed)),
            segments,
            bytes: self.bytes(),
            damaged: std::mem::take(&mut *lock(&self.damaged)),
            missing,
            unfinished: self.unfinished.load(Relaxed),
            took: begun.elapsed(),
        };
        self.lost.iter().for_each(|lost| lost.store(0, Relaxed));
        (self, report)
    }
}
