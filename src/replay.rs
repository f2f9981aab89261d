//! Replay: sends quarantined items that are valid events by now through the bridge's own pipeline.
//!
//! A replay is safe to run twice, even days later when the dedup window has forgotten its events,
//! because the quarantine topic itself records what was replayed. Before a batch is published, an
//! *intent* marker names its records and the ends of the topics that its events go to. Afterwards a
//! *done* marker records the outcome. Markers are records with the key `marker::MARKER_KEY` and the
//! header `marker::MARKER_HEADER`, all in partition 0, so every run sees them in the same order.
//!
//! - Records named in a done are not sent again (`history`); equal bytes within a batch are sent
//!   once (`publisher`).
//! - Records of an intent without a done are in doubt: `stored_events` searches the topics from
//!   those ends on for their events, by the header `ce_replayedfrom`.
//! - Only one batch is open at a time: an intent does not count while another batch is open. A run
//!   ends if its intent does not count, or if it meets a marker of another run. If a run is gone,
//!   the next one closes its batch after the lease; a run publishes nothing after its lease.

mod batch;
mod candidate;
mod history;
mod journal;
mod marker;
mod publisher;
mod reader;
mod stored_events;
mod summary;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

pub use summary::{ReplayEventCounts, ReplayRecordCounts, ReplaySummary};

use crate::config::Config;
use batch::{BatchLimits, ReplayWork};
use butlr_event::ParseLimits;
use butlr_event::clock::unix_ms;
use candidate::{ContentKey, ItemHash, QuarantineTopicRecord, ReplayCandidate, StoredItems};
use journal::ReplayJournal;
use marker::{BatchOutcome, PartlyStoredRecord};
use publisher::{ReplayOutcome, ReplayPublisher};
use reader::ReplayReader;

/// Selection of the records to replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only items received at or after this time.
    pub since: Option<SystemTime>,
    /// Only items rejected with one of these codes; empty: any code.
    pub codes: Vec<String>,
    /// Count only, send nothing.
    pub dry_run: bool,
}

/// Reason why a replay ended early. What it published is recorded; it can be run again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka failed.
    #[error("{0}")]
    Kafka(String),
    /// The topic does not exist.
    #[error(
        "the topic {0} does not exist, so nothing is quarantined; create it with `butlr-bridge topics --apply`"
    )]
    Missing(String),
    /// Another replay is running.
    #[error(
        "another replay is running on {0}: nothing more was sent; run the command again when the other one has ended"
    )]
    Busy(String),
    /// No event of a batch could be stored.
    #[error(
        "stopped, because no event can be stored at the moment ({0}); what was sent is recorded, so run the command again later"
    )]
    GivenUp(String),
    /// A part of the bridge could not be started.
    #[error("{0}")]
    Configuration(String),
}

/// Progress of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayProgress {
    /// Records of the quarantine topic read so far.
    pub read: u64,
    /// Records of the quarantine topic in total.
    pub total: u64,
    /// Events published so far.
    pub published: u64,
}

/// Most records in memory, and their bytes. Within a chunk events are sent in the order of receipt.
const CHUNK_RECORDS: usize = 5_000;
const CHUNK_BYTES: usize = 32 << 20;
/// Most events of a batch, and their bytes.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// Runs a replay. The summary is also valid if the run ended early.
pub fn run(
    config: &Config,
    options: &Options,
    on_progress: &mut dyn FnMut(ReplayProgress),
) -> (ReplaySummary, Result<(), Error>) {
    let mut summary = ReplaySummary {
        dry_run: options.dry_run,
        ..ReplaySummary::default()
    };
    let result = replay(config, options, &mut summary, on_progress);
    summary.is_whole = result.is_ok();
    (summary, result)
}

fn replay(
    config: &Config,
    options: &Options,
    summary: &mut ReplaySummary,
    on_progress: &mut dyn FnMut(ReplayProgress),
) -> Result<(), Error> {
    // The spool belongs to the running bridge, and items that are still invalid stay where they
    // are.
    let mut config = config.clone();
    config.spool.dir = None;
    config.quarantine.keep = false;
    let bootstrap = config.require_bootstrap_servers();
    let bootstrap = bootstrap.map_err(|error| Error::Configuration(error.to_string()))?;
    let topic = config.topics.quarantine.name.clone();
    let reader = ReplayReader::new(&config, bootstrap)?;
    let ranges = reader.fetch_ranges(&topic)?;
    let mut journal = ReplayJournal::open(&config, bootstrap)?;
    journal.catch_up()?;
    let mut stored_in_doubt = StoredItems::new();
    let mut publisher = None;
    if !options.dry_run {
        journal.await_other_runs()?;
        stored_in_doubt =
            stored_events::find_stored(&reader, journal.history().in_doubt(), &topic)?;
        publisher = Some(ReplayPublisher::start(&config).map_err(Error::Configuration)?);
    }
    let mut replay = ReplayRun {
        parse_limits: ParseLimits {
            max_events: config.http.max_events,
            max_event_bytes: config.http.max_event_bytes,
        },
        batch_limits: BatchLimits {
            events: BATCH_EVENTS.min(config.kafka.max_in_flight_per_topic),
            bytes: BATCH_BYTES,
        },
        lease: publisher::batch_lease(&config),
        config: &config,
        options,
        topic: &topic,
        journal,
        stored_in_doubt,
        publisher,
        summary,
        chunk: Vec::new(),
        chunk_bytes: 0,
    };
    let total = ranges.iter().map(|range| range.len()).sum();
    reader.read_quarantine(&topic, &ranges, &mut |record| {
        replay.add_record(record)?;
        on_progress(ReplayProgress {
            read: replay.summary.records.read,
            total,
            published: replay.summary.events.published,
        });
        Ok(())
    })?;
    replay.process_chunk()
}

/// State of one run.
struct ReplayRun<'r> {
    config: &'r Config,
    options: &'r Options,
    topic: &'r str,
    parse_limits: ParseLimits,
    batch_limits: BatchLimits,
    lease: Duration,
    journal: ReplayJournal,
    /// Stored events of the records that were in doubt at the start.
    stored_in_doubt: StoredItems,
    /// `None` in a dry run.
    publisher: Option<ReplayPublisher>,
    summary: &'r mut ReplaySummary,
    chunk: Vec<ReplayCandidate>,
    chunk_bytes: usize,
}

impl ReplayRun<'_> {
    fn add_record(&mut self, record: QuarantineTopicRecord) -> Result<(), Error> {
        let QuarantineTopicRecord::Candidate(candidate) = record else {
            return Ok(());
        };
        self.summary.records.read += 1;
        if !self.is_selected(&candidate) {
            return Ok(());
        }
        self.summary.records.matched += 1;
        if self.journal.history().is_done(&candidate) {
            self.summary.records.already_replayed += 1;
            return Ok(());
        }
        self.chunk_bytes += candidate.value.len();
        self.chunk.push(candidate);
        if self.chunk.len() >= CHUNK_RECORDS || self.chunk_bytes >= CHUNK_BYTES {
            self.process_chunk()?;
        }
        Ok(())
    }

    fn is_selected(&self, candidate: &ReplayCandidate) -> bool {
        let Options { since, codes, .. } = self.options;
        let since = since.map_or(i64::MIN, unix_ms);
        let has_code = codes.is_empty() || candidate.codes.iter().any(|code| codes.contains(code));
        candidate.received_ms >= since && has_code
    }

    /// Collects the hashes of stored events by record key: of records with equal bytes only one was
    /// sent.
    fn stored_hashes<'k>(
        &self,
        chunk: &'k [ReplayCandidate],
    ) -> HashMap<&'k ContentKey, HashSet<ItemHash>> {
        let mut stored = HashMap::<_, HashSet<_>>::new();
        for candidate in chunk {
            let found = self.stored_in_doubt.get(&candidate.position);
            let recorded = self.journal.history().partly_stored(candidate.position);
            for hashes in [found, recorded].into_iter().flatten() {
                stored.entry(&candidate.key).or_default().extend(hashes);
            }
        }
        stored
    }

    /// Sends the valid events of the chunk.
    fn process_chunk(&mut self) -> Result<(), Error> {
        let mut chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        chunk.sort_by_key(|candidate| candidate.received_ms);
        let stored = self.stored_hashes(&chunk);
        let mut works = VecDeque::new();
        for candidate in &chunk {
            let hashes = stored.get(&candidate.key);
            let is_stored = |hash| hashes.is_some_and(|hashes| hashes.contains(&hash));
            let work = ReplayWork::from_candidate(candidate, self.parse_limits, is_stored);
            self.summary.count_work(&work);
            if work.is_needed() {
                works.push_back(work);
            }
        }
        if self.publisher.is_some() {
            while !works.is_empty() {
                self.send_batch(&mut works)?;
            }
        }
        Ok(())
    }

    /// Sends one batch: intent, events, done.
    fn send_batch(&mut self, works: &mut VecDeque<ReplayWork<'_>>) -> Result<(), Error> {
        let records = batch::count_batch_records(works, self.batch_limits);
        let started = Instant::now();
        let positions: Vec<_> = works
            .iter()
            .take(records)
            .map(|work| work.candidate.position)
            .collect();
        let types = works.iter().take(records).flat_map(ReplayWork::types);
        let ends = self.journal.collect_ends(self.config, types, &positions)?;
        self.journal.write_intent(positions, ends, self.lease)?;
        // An earlier batch may have sent the same bytes.
        for work in works.iter_mut().take(records) {
            let history = self.journal.history();
            if history.is_done(work.candidate) {
                work.items.clear();
                work.is_recorded = true;
                self.summary.records.already_replayed += 1;
            }
        }
        let items: Vec<_> = batch::select_items(works, records, self.batch_limits);
        let publisher = self
            .publisher
            .as_ref()
            .expect("batches are sent only with a publisher");
        if started.elapsed() >= publisher.answer_within() {
            // The lease might expire before the whole batch is published.
            self.journal.withdraw_intent()?;
            return Err(Error::Kafka(
                "Kafka is too slow to send anything at the moment".to_owned(),
            ));
        }
        let outcomes = publisher.send(self.topic, &items);
        drop(items);
        let gave_up = self.record_outcomes(works, records, outcomes)?;
        gave_up.map_or(Ok(()), |reason| Err(Error::GivenUp(reason)))
    }

    /// Records the outcomes of a batch. Returns a problem code if no event could be stored.
    fn record_outcomes(
        &mut self,
        works: &mut VecDeque<ReplayWork<'_>>,
        records: usize,
        outcomes: Vec<ReplayOutcome>,
    ) -> Result<Option<String>, Error> {
        let codes = outcomes.iter().map(|outcome| match outcome {
            ReplayOutcome::Failed(code) => Some(*code),
            ReplayOutcome::Published | ReplayOutcome::Duplicate => None,
        });
        let all_failed: Option<Vec<_>> = codes.collect();
        let gave_up = all_failed.and_then(|codes| codes.first().map(|code| (*code).to_owned()));
        let mut finished = BatchOutcome::default();
        let mut outcomes = outcomes.into_iter();
        let mut unfinished = Vec::new();
        for _ in 0..records {
            let mut work = works.pop_front().expect("the batch was counted from them");
            let count = work.items.len().min(outcomes.len());
            for (item, outcome) in work.items.drain(..count).zip(&mut outcomes) {
                self.summary.count_outcome(&outcome);
                match outcome {
                    ReplayOutcome::Published | ReplayOutcome::Duplicate => {
                        work.stored.push(item.hash)
                    }
                    ReplayOutcome::Failed(_) => work.has_failed = true,
                }
            }
            let position = work.candidate.position;
            if work.has_failed {
                finished.unsure.push(position);
            }
            if work.is_recorded {
                continue;
            }
            if work.items.is_empty() && !work.has_failed && !work.has_invalid {
                finished
                    .records
                    .push((position, work.candidate.key.clone()));
                continue;
            }
            let items = std::mem::take(&mut work.stored);
            if !items.is_empty() {
                finished.partly.push(PartlyStoredRecord { position, items });
            }
            if !work.items.is_empty() {
                unfinished.push(work);
            }
        }
        for work in unfinished.into_iter().rev() {
            works.push_front(work);
        }
        self.journal.write_done(finished)?;
        Ok(gave_up)
    }
}
