//! Journal of replays: reads the markers in the quarantine topic and writes this run's.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext,
};

use super::Error;
use super::candidate::{QuarantinePosition, QuarantineTopicRecord};
use super::history::{ReplayHistory, merge_ends};
use super::marker::{
    BatchOutcome, MARKER_HEADER, MARKER_KEY, MARKER_PARTITION, ReplayMarker, TopicEnds,
};
use super::reader::{OffsetRange, ReplayReader, kafka_error};
use crate::config::{Config, LINGER_PROPERTIES};
use crate::kafka::client;
use butlr_event::EventType;
use butlr_event::clock::unix_ms;

/// Poll interval while waiting for another run.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Largest assumed difference between the clocks of two machines.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Sends the offset of each written marker back to its writer.
struct MarkerCallbacks;

impl ClientContext for MarkerCallbacks {}

impl ProducerContext for MarkerCallbacks {
    type DeliveryOpaque = Box<mpsc::Sender<Result<i64, String>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, to: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        let _ = to.send(report);
    }
}

/// Markers read so far, and the means to write new ones.
pub struct ReplayJournal {
    reader: ReplayReader,
    writer: BaseProducer<MarkerCallbacks, NoCustomPartitioner>,
    topic: String,
    /// All markers before this offset are read.
    next_offset: i64,
    history: ReplayHistory,
    run: String,
    batch: u32,
    /// Another run wrote a marker after this one searched for stored events.
    has_met_other_run: bool,
}

impl ReplayJournal {
    /// Creates the journal without reading any marker.
    pub fn open(config: &Config, bootstrap: &str) -> Result<Self, Error> {
        let mut writer = client::producer_config(config, bootstrap);
        let properties = &config.kafka.properties;
        // The writer waits for each marker, so lingering would only delay it.
        if !LINGER_PROPERTIES
            .iter()
            .any(|name| properties.contains_key(*name))
        {
            writer.set(LINGER_PROPERTIES[0], "0");
        }
        let writer = writer
            .create_with_context(MarkerCallbacks)
            .map_err(kafka_error)?;
        let started = unix_ms(SystemTime::now()).unsigned_abs();
        Ok(Self {
            reader: ReplayReader::new(config, bootstrap)?,
            writer,
            topic: config.topics.quarantine.name.clone(),
            next_offset: 0,
            history: ReplayHistory::default(),
            run: format!("{started:x}-{:x}", std::process::id()),
            batch: 0,
            has_met_other_run: false,
        })
    }

    /// Returns the state derived from the markers read so far.
    pub fn history(&self) -> &ReplayHistory {
        &self.history
    }

    /// Reads new markers. Returns `true` if there were any that count.
    pub fn catch_up(&mut self) -> Result<bool, Error> {
        let end = self.reader.fetch_range(&self.topic, MARKER_PARTITION)?;
        self.next_offset = self.next_offset.max(end.from);
        Ok(!self.read_until(end.to)?.is_empty())
    }

    /// Reads up to an offset and returns the offsets of the markers that count.
    fn read_until(&mut self, to: i64) -> Result<HashSet<i64>, Error> {
        let range = OffsetRange {
            partition: MARKER_PARTITION,
            from: self.next_offset,
            to,
        };
        let (history, mut counted) = (&mut self.history, HashSet::new());
        let (run, has_met_other_run) = (&self.run, &mut self.has_met_other_run);
        self.reader
            .read_quarantine(&self.topic, &[range], &mut |record| {
                let QuarantineTopicRecord::Marker { offset, ms, marker } = record else {
                    return Ok(());
                };
                let Some(marker) = marker else {
                    tracing::warn!(offset, "a replay marker cannot be parsed");
                    return Ok(());
                };
                let is_own = marker.run() == run;
                if history.apply(ms, marker) {
                    *has_met_other_run |= !is_own;
                    counted.insert(offset);
                }
                Ok(())
            })?;
        self.next_offset = self.next_offset.max(to);
        Ok(counted)
    }

    /// Waits until no batch of another run is open. A batch whose lease has expired is closed; its
    /// records stay in doubt.
    pub fn await_other_runs(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        while let Some(open) = self.history.open_batch() {
            let age = unix_ms(SystemTime::now()).saturating_sub(open.since_ms);
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            if started.elapsed() >= open.lease || age >= open.lease + MAX_CLOCK_SKEW {
                let done = ReplayMarker::Done {
                    run: open.run.clone(),
                    batch: open.batch,
                    finished: None,
                };
                let offset = self.write_marker(&done)?;
                self.read_until(offset + 1)?;
                continue;
            }
            std::thread::sleep(POLL_INTERVAL);
            if self.catch_up()? {
                return Err(Error::Busy(self.topic.clone()));
            }
        }
        self.has_met_other_run = false;
        Ok(())
    }

    /// Collects the ends of the topics: events of a batch that is published now are found from
    /// there on. Records that are in doubt already keep their earlier ends.
    pub fn collect_ends(
        &self,
        config: &Config,
        types: impl Iterator<Item = EventType>,
        positions: &[QuarantinePosition],
    ) -> Result<TopicEnds, Error> {
        let mut ends = TopicEnds::new();
        for event_type in types {
            let topic = &config.topics.for_type(event_type).name;
            if ends.contains_key(topic) {
                continue;
            }
            let ranges = match self.reader.fetch_ranges(topic) {
                Err(Error::Missing(_)) => Vec::new(),
                ranges => ranges?,
            };
            let of_topic = ranges.iter().map(|r| (r.partition, r.to)).collect();
            ends.insert(topic.clone(), of_topic);
        }
        for position in positions {
            if let Some(earlier) = self.history.in_doubt().get(position) {
                merge_ends(&mut ends, earlier);
            }
        }
        Ok(ends)
    }

    /// Writes the intent to send these records. Returns [`Error::Busy`] if another run is active;
    /// then nothing may be sent.
    pub fn write_intent(
        &mut self,
        records: Vec<QuarantinePosition>,
        ends: TopicEnds,
        lease: Duration,
    ) -> Result<(), Error> {
        self.batch += 1;
        let intent = ReplayMarker::Intent {
            run: self.run.clone(),
            batch: self.batch,
            lease_ms: lease.as_millis() as u64,
            records,
            ends,
        };
        let offset = self.write_marker(&intent)?;
        let counts = self.read_until(offset + 1)?.contains(&offset);
        if !self.has_met_other_run && counts {
            return Ok(());
        }
        if counts {
            // This run's search for stored events is out of date.
            self.withdraw_intent()?;
        }
        Err(Error::Busy(self.topic.clone()))
    }

    /// Closes the batch without sending it. Its records stay in doubt.
    pub fn withdraw_intent(&mut self) -> Result<(), Error> {
        let records = self.history.open_batch().map(|open| open.records.clone());
        self.write_done(BatchOutcome {
            unsure: records.unwrap_or_default(),
            ..BatchOutcome::default()
        })
    }

    /// Writes the outcome of the batch.
    pub fn write_done(&mut self, finished: BatchOutcome) -> Result<(), Error> {
        let done = ReplayMarker::Done {
            run: self.run.clone(),
            batch: self.batch,
            finished: Some(finished),
        };
        let offset = self.write_marker(&done)?;
        self.read_until(offset + 1).map(drop)
    }

    /// Writes a marker, waits for Kafka to confirm it and returns its offset.
    fn write_marker(&self, marker: &ReplayMarker) -> Result<i64, Error> {
        let value = serde_json::to_vec(marker).expect("a marker is JSON");
        let header = Header {
            key: MARKER_HEADER,
            value: Some(marker.kind()),
        };
        let (report, reported) = mpsc::channel();
        let record = BaseRecord::with_opaque_to(&self.topic, Box::new(report))
            .partition(MARKER_PARTITION)
            .key(MARKER_KEY)
            .payload(&value)
            .timestamp(unix_ms(SystemTime::now()))
            .headers(OwnedHeaders::new_with_capacity(1).insert(header));
        self.writer
            .send(record)
            .map_err(|(error, _)| kafka_error(error))?;
        loop {
            self.writer.poll(Duration::from_millis(10));
            match reported.try_recv() {
                Ok(Ok(offset)) if offset >= 0 => return Ok(offset),
                // See `kafka::report::Receipt`.
                Ok(Ok(_)) => {
                    return Err(kafka_error(
                        "the broker did not report the offset of a marker",
                    ));
                }
                Ok(Err(error)) => return Err(kafka_error(error)),
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Err(kafka_error("the delivery report of a marker was lost"));
                }
            }
        }
    }
}
