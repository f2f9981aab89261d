//! The markers in the quarantine topic: reading them, and writing this run's.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext,
};

use super::Error;
use super::history::{History, join};
use super::kept::{Place, Read};
use super::marker::{Ends, Finished, HEADER, KEY, Marker, PARTITION};
use super::reader::{Reader, Span, told};
use crate::config::Config;
use crate::kafka::client;
use butlr_event::EventType;
use butlr_event::clock::unix_ms;

/// Between two looks whether another run goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Clocks of machines may differ by so much.
const SKEW: Duration = Duration::from_secs(60);

struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<mpsc::Sender<Result<i64, String>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, to: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        let _ = to.send(report);
    }
}

/// This run's view of the markers.
pub struct Journal {
    reader: Reader,
    writer: BaseProducer<Reports, NoCustomPartitioner>,
    topic: String,
    /// All before is read.
    next: i64,
    history: History,
    run: String,
    batch: u32,
    /// Another run did something since this one looked at what is stored.
    met_another: bool,
}

impl Journal {
    /// Nothing is read yet.
    pub fn open(config: &Config, bootstrap: &str) -> Result<Self, Error> {
        let writer = client::producer(config, bootstrap)
            .create_with_context(Reports)
            .map_err(told)?;
        let started = unix_ms(SystemTime::now()).unsigned_abs();
        Ok(Self {
            reader: Reader::new(config, bootstrap)?,
            writer,
            topic: config.topics.quarantine.name.clone(),
            next: 0,
            history: History::default(),
            run: format!("{started:x}-{:x}", std::process::id()),
            batch: 0,
            met_another: false,
        })
    }

    /// What the markers say, as far as they are read.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Reads the markers that came since. Whether there were any.
    pub fn catch_up(&mut self) -> Result<bool, Error> {
        let end = self.reader.span(&self.topic, PARTITION)?;
        self.next = self.next.max(end.from);
        Ok(!self.read(end.to)?.is_empty())
    }

    /// Reads up to an offset. The offsets of the markers that count.
    fn read(&mut self, to: i64) -> Result<HashSet<i64>, Error> {
        let span = Span {
            partition: PARTITION,
            from: self.next,
            to,
        };
        let (history, mut counted) = (&mut self.history, HashSet::new());
        let (run, met_another) = (&self.run, &mut self.met_another);
        self.reader.read(&self.topic, &[span], &mut |read| {
            let (offset, ms, marker) = match read {
                Read::Marker { offset, ms, marker } => (offset, ms, marker),
                Read::Kept(_) | Read::Foreign => return Ok(()),
            };
            let Some(marker) = marker else {
                tracing::warn!(offset, "a marker of a replay cannot be read");
                return Ok(());
            };
            let is_own = marker.run() == run;
            if history.apply(ms, marker) {
                *met_another |= !is_own;
                counted.insert(offset);
            }
            Ok(())
        })?;
        self.next = self.next.max(to);
        Ok(counted)
    }

    /// A batch of another run is open: waits until its lease is over, then closes it. Its records are in doubt.
    pub fn wait_for_others(&mut self) -> Result<(), Error> {
        let seen = Instant::now();
        while let Some(open) = self.history.open() {
            let age = unix_ms(SystemTime::now()).saturating_sub(open.since_ms);
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            if seen.elapsed() >= open.lease || age >= open.lease + SKEW {
                let done = Marker::Done {
                    run: open.run.clone(),
                    batch: open.batch,
                    finished: None,
                };
                let offset = self.write(&done)?;
                self.read(offset + 1)?;
                continue;
            }
            std::thread::sleep(LOOK_AGAIN);
            if self.catch_up()? {
                return Err(Error::Busy(self.topic.clone()));
            }
        }
        self.met_another = false;
        Ok(())
    }

    /// From where on the events of a batch are to be found, if it is published now.
    pub fn ends(
        &self,
        config: &Config,
        types: impl Iterator<Item = EventType>,
        places: &[Place],
    ) -> Result<Ends, Error> {
        let mut ends = Ends::new();
        for event_type in types {
            let topic = &config.topics.for_type(event_type).name;
            if ends.contains_key(topic) {
                continue;
            }
            let spans = match self.reader.spans(topic) {
                Err(Error::Missing(_)) => Vec::new(),
                spans => spans?,
            };
            let of_topic = spans.iter().map(|s| (s.partition, s.to)).collect();
            ends.insert(topic.clone(), of_topic);
        }
        for place in places {
            if let Some(earlier) = self.history.doubts().get(place) {
                join(&mut ends, earlier);
            }
        }
        Ok(ends)
    }

    /// Says that these records are about to be sent.
    ///
    /// # Errors
    /// Another run is at work: nothing may be sent.
    pub fn intend(
        &mut self,
        records: Vec<Place>,
        ends: Ends,
        lease: Duration,
    ) -> Result<(), Error> {
        self.batch += 1;
        let intent = Marker::Intent {
            run: self.run.clone(),
            batch: self.batch,
            lease_ms: lease.as_millis() as u64,
            records,
            ends,
        };
        let offset = self.write(&intent)?;
        let counts = self.read(offset + 1)?.contains(&offset);
        if !self.met_another && counts {
            return Ok(());
        }
        if counts {
            // What this run knows of its records is old.
            self.withdraw()?;
        }
        Err(Error::Busy(self.topic.clone()))
    }

    /// Nothing of the batch was sent; what was in doubt stays so.
    pub fn withdraw(&mut self) -> Result<(), Error> {
        let records = self.history.open().map(|open| open.records.clone());
        self.finish(Finished {
            unsure: records.unwrap_or_default(),
            ..Finished::default()
        })
    }

    /// Says what came of that.
    pub fn finish(&mut self, finished: Finished) -> Result<(), Error> {
        let done = Marker::Done {
            run: self.run.clone(),
            batch: self.batch,
            finished: Some(finished),
        };
        let offset = self.write(&done)?;
        self.read(offset + 1).map(drop)
    }

    /// Waits until Kafka has it. Its offset.
    fn write(&self, marker: &Marker) -> Result<i64, Error> {
        let value = serde_json::to_vec(marker).expect("a marker is JSON");
        let header = Header {
            key: HEADER,
            value: Some(marker.kind()),
        };
        let (report, reported) = mpsc::channel();
        let record = BaseRecord::with_opaque_to(&self.topic, Box::new(report))
            .partition(PARTITION)
            .key(KEY)
            .payload(&value)
            .timestamp(unix_ms(SystemTime::now()))
            .headers(OwnedHeaders::new_with_capacity(1).insert(header));
        self.writer.send(record).map_err(|(error, _)| told(error))?;
        loop {
            self.writer.poll(Duration::from_millis(10));
            match reported.try_recv() {
                Ok(Ok(offset)) if offset >= 0 => return Ok(offset),
                // See `kafka::report::Receipt`.
                Ok(Ok(_)) => return Err(told("the broker did not say where a marker is")),
                Ok(Err(error)) => return Err(told(error)),
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Err(told("nobody said what became of a marker"));
                }
            }
        }
    }
}
