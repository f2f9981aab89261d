//! Sends again what was quarantined and is a valid event by now, through the bridge's own pipeline.
//!
//! Safe to run twice, also days later, when nothing else remembers what was published: the quarantine topic itself does.
//! Before a batch is published, an *intent* goes there: which records it is about, and where the topics of their events end.
//! After it, a *done* says what came of it. Both are markers: records with the key `marker::KEY` and the header
//! `marker::HEADER`, all in partition 0, so that they have one order that every run sees.
//!
//! - What a done names is not sent again (`history`); the same bytes within a batch are sent once (`sending`).
//! - Records of an intent without its done are in doubt: they are looked for in those topics, from those ends on, by the
//!   header `ce_replayedfrom` (`stored`).
//! - One batch at a time is under way: an intent counts only while no other is open, by the order of the markers. A run whose
//!   intent does not count ends, and so does one that meets what another did meanwhile. An intent whose run is gone is closed by the next run once its lease is over; the run itself
//!   publishes nothing later than that.

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
use std::time::{Duration, SystemTime};

pub use summary::ReplaySummary;

use crate::config::Config;
use batch::ReplayWork;
use butlr_event::ParseLimits;
use butlr_event::clock::unix_ms;
use candidate::{QuarantinePosition, QuarantineTopicRecord, ReplayCandidate};
use journal::ReplayJournal;
use marker::{BatchOutcome, PartlyStoredRecord};
use publisher::{ReplayOutcome, ReplayPublisher};
use reader::ReplayReader;

/// Which records are sent again, and whether at all.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only what was received from then on.
    pub since: Option<SystemTime>,
    /// Only what was refused with one of these codes; empty: with any.
    pub codes: Vec<String>,
    /// Only look.
    pub dry_run: bool,
}

/// Why a replay could not go on. What it published is remembered; it can be run again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka.
    #[error("{0}")]
    Kafka(String),
    /// The topic does not exist.
    #[error(
        "the topic {0} does not exist, so nothing was quarantined; `butlr-bridge topics --apply` creates it"
    )]
    Missing(String),
    /// Somebody else does the same.
    #[error(
        "another replay is at work on {0}: nothing more was sent; run it again when that has ended"
    )]
    Busy(String),
    /// Nothing of a batch could be stored.
    #[error(
        "given up, since nothing can be stored now ({0}); what was sent is remembered: run it again"
    )]
    GivenUp(String),
    /// The bridge's parts.
    #[error("{0}")]
    Configuration(String),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayProgress {
    /// Records of the quarantine topic read.
    pub read: u64,
    /// Of so many.
    pub total: u64,
    /// Events published.
    pub published: u64,
}

/// Records held at a time, and their bytes: within them, the order is that of receipt.
const CHUNK_RECORDS: usize = 5_000;
const CHUNK_BYTES: usize = 32 << 20;
/// Events published at a time, and their bytes.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// Replays; the summary also where it could not go on.
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
    // The spool is the running bridge's, and what is not valid stays where it is.
    let mut config = config.clone();
    config.spool.dir = None;
    config.quarantine.keep = false;
    let bootstrap = config.require_bootstrap_servers();
    let bootstrap = bootstrap.map_err(|mistake| Error::Configuration(mistake.to_string()))?;
    let topic = config.topics.quarantine.name.clone();
    let reader = ReplayReader::new(&config, bootstrap)?;
    let spans = reader.fetch_ranges(&topic)?;
    let mut journal = ReplayJournal::open(&config, bootstrap)?;
    journal.catch_up()?;
    let mut found = HashMap::new();
    if !options.dry_run {
        journal.await_other_runs()?;
        found = stored_events::find_stored(&reader, journal.history().in_doubt(), &topic)?;
    }
    let sending = match options.dry_run {
        true => None,
        false => Some(ReplayPublisher::start(&config).map_err(Error::Configuration)?),
    };
    let mut replay = ReplayRun {
        limits: ParseLimits {
            max_events: config.http.max_events,
            max_event_bytes: config.http.max_event_bytes,
        },
        max_batch_events: BATCH_EVENTS.min(config.kafka.max_in_flight_per_topic),
        lease: publisher::batch_lease(&config),
        config: &config,
        options,
        topic: &topic,
        journal,
        stored_in_doubt: found,
        publisher: sending,
        summary,
        chunk: Vec::new(),
        chunk_bytes: 0,
    };
    let of = spans.iter().map(|span| span.len()).sum();
    let read = reader.read_quarantine(&topic, &spans, &mut |read| {
        replay.add_record(read)?;
        let (read, published) = (replay.summary.read, replay.summary.published);
        on_progress(ReplayProgress {
            read,
            total: of,
            published,
        });
        Ok(())
    });
    read.and_then(|()| replay.process_chunk())
}

/// A run under way.
struct ReplayRun<'r> {
    config: &'r Config,
    options: &'r Options,
    topic: &'r str,
    limits: ParseLimits,
    /// Events of a batch.
    max_batch_events: usize,
    lease: Duration,
    journal: ReplayJournal,
    /// Of the records in doubt: hashes of the events that are stored.
    stored_in_doubt: HashMap<QuarantinePosition, HashSet<u64>>,
    /// `None`: only looking.
    publisher: Option<ReplayPublisher>,
    summary: &'r mut ReplaySummary,
    chunk: Vec<ReplayCandidate>,
    chunk_bytes: usize,
}

impl ReplayRun<'_> {
    fn add_record(&mut self, read: QuarantineTopicRecord) -> Result<(), Error> {
        let kept = match read {
            QuarantineTopicRecord::Candidate(kept) => kept,
            QuarantineTopicRecord::Marker { .. } | QuarantineTopicRecord::Foreign => return Ok(()),
        };
        self.summary.read += 1;
        if !self.is_selected(&kept) {
            return Ok(());
        }
        self.summary.matched += 1;
        if self.journal.history().is_done(&kept) {
            self.summary.already_replayed += 1;
            return Ok(());
        }
        self.chunk_bytes += kept.value.len();
        self.chunk.push(kept);
        match self.chunk.len() >= CHUNK_RECORDS || self.chunk_bytes >= CHUNK_BYTES {
            true => self.process_chunk(),
            false => Ok(()),
        }
    }

    fn is_selected(&self, kept: &ReplayCandidate) -> bool {
        let Options { since, codes, .. } = self.options;
        let since = since.map_or(i64::MIN, unix_ms);
        let of_codes = codes.is_empty() || kept.codes.iter().any(|code| codes.contains(code));
        kept.received_ms >= since && of_codes
    }

    /// By the key of records: hashes of their events that are stored. Of the same bytes, kept several times, only one was sent.
    fn stored_hashes<'k>(&self, chunk: &'k [ReplayCandidate]) -> HashMap<&'k str, HashSet<u64>> {
        let mut stored = HashMap::<_, HashSet<_>>::new();
        for kept in chunk {
            let found = self.stored_in_doubt.get(&kept.position);
            let before = self.journal.history().partly_stored(kept.position);
            for hashes in [found, before].into_iter().flatten() {
                stored.entry(kept.key.as_str()).or_default().extend(hashes);
            }
        }
        stored
    }

    /// Sends what of the chunk is valid.
    fn process_chunk(&mut self) -> Result<(), Error> {
        let mut chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        chunk.sort_by_key(|kept| kept.received_ms);
        let stored = self.stored_hashes(&chunk);
        let mut works = VecDeque::new();
        for kept in &chunk {
            let of_these = stored.get(kept.key.as_str());
            let is_stored = |hash| of_these.is_some_and(|stored| stored.contains(&hash));
            let work = ReplayWork::from_candidate(kept, self.limits, is_stored);
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

    /// One batch: intent, events, done.
    fn send_batch(&mut self, works: &mut VecDeque<ReplayWork<'_>>) -> Result<(), Error> {
        let taken = batch::count_batch_records(works, self.max_batch_events, BATCH_BYTES);
        let begun = std::time::Instant::now();
        let places: Vec<_> = works
            .iter()
            .take(taken)
            .map(|work| work.candidate.position)
            .collect();
        let types = works.iter().take(taken).flat_map(ReplayWork::types);
        let ends = self.journal.collect_ends(self.config, types, &places)?;
        self.journal.write_intent(places, ends, self.lease)?;
        // The same bytes may have been sent by a batch before.
        for work in works.iter_mut().take(taken) {
            let history = self.journal.history();
            if history.is_done(work.candidate) {
                work.items.clear();
                work.is_recorded = true;
                self.summary.already_replayed += 1;
            }
        }
        let items: Vec<_> = batch::select_items(works, taken, self.max_batch_events, BATCH_BYTES);
        let sending = self
            .publisher
            .as_ref()
            .expect("asked for only when sending");
        if begun.elapsed() >= sending.answer_within() {
            // The lease may be over before all of it is published.
            self.journal.withdraw_intent()?;
            return Err(Error::Kafka(
                "Kafka is too slow to send anything now".to_owned(),
            ));
        }
        let sent = sending.send(self.topic, &items);
        drop(items);
        let gave_up = self.record_results(works, taken, sent)?;
        gave_up.map_or(Ok(()), |reason| Err(Error::GivenUp(reason)))
    }

    /// Writes down what came of a batch. Some reason, where nothing could be stored.
    fn record_results(
        &mut self,
        works: &mut VecDeque<ReplayWork<'_>>,
        taken: usize,
        sent: Vec<ReplayOutcome>,
    ) -> Result<Option<String>, Error> {
        let failed = sent.iter().filter_map(|sent| match sent {
            ReplayOutcome::Failed(code) => Some(*code),
            ReplayOutcome::Published | ReplayOutcome::Duplicate => None,
        });
        let gave_up = match failed.clone().count() {
            0 => None,
            n if n < sent.len() => None,
            _ => failed.clone().next().map(str::to_owned),
        };
        let mut finished = BatchOutcome::default();
        let mut sent = sent.into_iter();
        let mut left = Vec::new();
        for _ in 0..taken {
            let mut work = works.pop_front().expect("as many were taken");
            let count = work.items.len().min(sent.len());
            for (item, sent) in work.items.drain(..count).zip(&mut sent) {
                self.summary.count_outcome(&sent);
                match sent {
                    ReplayOutcome::Published | ReplayOutcome::Duplicate => {
                        work.stored.push(item.hash)
                    }
                    ReplayOutcome::Failed(_) => work.has_failed = true,
                }
            }
            let place = work.candidate.position;
            if work.has_failed {
                finished.unsure.push(place);
            }
            if work.is_recorded {
                continue;
            }
            if work.items.is_empty() && !work.has_failed && !work.has_invalid {
                finished.records.push((place, work.candidate.key.clone()));
                continue;
            }
            let items = std::mem::take(&mut work.stored);
            if !items.is_empty() {
                finished.partly.push(PartlyStoredRecord { place, items });
            }
            if !work.items.is_empty() {
                left.push(work);
            }
        }
        left.into_iter()
            .rev()
            .for_each(|work| works.push_front(work));
        self.journal.write_done(finished)?;
        Ok(gave_up)
    }
}
