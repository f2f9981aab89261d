//! What is said to Redis: keys, the scripts and what they are given.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xxhash_rust::xxh3::xxh3_64;

use super::answer::pack;
use crate::config::{self, DuplicateHandling};
use crate::dedup::Facts;
use crate::dedup::claim::Current;
use butlr_event::event_id::EventId;

/// For how long an undecided claim is held; renewed every [`RENEWAL`], and free for others when its holder died.
pub const LEASE: Duration = Duration::from_secs(3);
/// Between two renewals of a claim that stays open.
pub const RENEWAL: Duration = Duration::from_secs(1);
/// For how long it is remembered that a claim ended, or its holder died, without anybody knowing what became of its event:
/// longer than a record can be on its way to Kafka, with the settings of any replica. With a spool librdkafka goes on with it
/// for a minute, and the last request may take another 5 s; without one it is up to 60 s (`http.answer_within`) and three
/// quarters of that. Sooner, another value could be relied on behind which that record is stored.
const SETTLING: Duration = Duration::from_secs(120);
/// For how long an epoch is remembered at least after the last replica has gone.
const EPOCH: Duration = Duration::from_secs(24 * 3600);
/// For how long the newest time of a source is remembered; a silent source is forgotten.
const NEWEST: Duration = Duration::from_secs(24 * 3600);

/// A script, as it is loaded and as it is called.
pub struct Script {
    /// Its text.
    pub text: &'static str,
    sha: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let sha = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let sha = sha.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Self {
            text,
            sha: sha.collect(),
        }
    }

    fn call(&self, keys: &[String]) -> Cmd {
        let mut call = Cmd::with_capacity(20, 512);
        call.arg("EVALSHA").arg(&self.sha).arg(keys.len()).arg(keys);
        call
    }
}

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("claim.lua")));
static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("commit.lua")));
static DRAINED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("drained.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));
static UNKNOWN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("unknown.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// What has to be loaded into a Redis before it can be asked.
pub fn scripts() -> impl Iterator<Item = Cmd> {
    [&CLAIM, &COMMIT, &DRAINED, &RELEASE, &UNKNOWN, &RENEW]
        .into_iter()
        .map(|script| {
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(script.text);
            load
        })
}

/// Names a claim: the process that made it and its number there.
pub type Token = [u8; 16];

/// What is claimed.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Whose claim it is.
    pub token: Token,
    id: u64,
    /// The key that the event has instead when another one is stored under its id.
    own: u64,
    reading: u64,
    cell: Option<u64>,
    source: u64,
    /// The event's time, ms since 1970.
    time: i64,
    /// Whether that may become the newest of its source.
    plausible: bool,
}

impl Subject {
    /// What `facts` are about.
    pub fn new(token: Token, facts: &Facts<'_>) -> Self {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&facts.id_key.to_le_bytes());
        both[8..].copy_from_slice(&facts.reading.to_le_bytes());
        Self {
            token,
            id: facts.id_key,
            own: xxh3_64(&both),
            reading: facts.reading,
            cell: facts.cell,
            source: facts.source,
            time: facts.timestamp_ms,
            plausible: facts.plausible_time,
        }
    }
}

impl Subject {
    fn own_if(&self, conflict: bool) -> u64 {
        if conflict { self.own } else { self.id }
    }
}

/// What becomes of what is stored when the claim is committed.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The event is stored under an id of its own.
    pub conflict: bool,
    /// What becomes the current value.
    pub current: Option<Current>,
}

/// A record in Kafka, or one that may be there: Redis is to know of it.
#[derive(Debug)]
pub struct Ending {
    /// What it is.
    pub subject: Subject,
    /// What it changes.
    pub change: Change,
    /// Whether and where it is stored.
    pub stored: Stored,
    /// Since when.
    pub at: Instant,
    /// Whether Redis granted its claim, so that nobody else may have published it.
    pub granted: bool,
    /// Whether Redis may have been told already.
    pub again: bool,
}

/// What is known of a record in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Kafka has it.
    Published,
    /// It is on this replica's disk.
    Spooled,
    /// Nothing.
    Unknown,
}

/// What was spooled and is in Kafka now.
#[derive(Debug)]
pub struct Drained {
    /// What it is; the token says of which process.
    pub subject: Subject,
    /// Whether it is stored under an id of its own.
    pub conflict: bool,
    /// The id under which it was published.
    pub id: EventId,
    /// Whether it became the current value.
    pub changes: bool,
    /// The id of a current value that the same replica gets into Kafka after it.
    pub follows: Option<EventId>,
}

impl Drained {
    /// Whether current values are to be looked at.
    pub fn touches_current(&self) -> bool {
        self.changes && self.subject.cell.is_some()
    }
}

/// What all replicas have to agree on.
#[derive(Clone, Debug)]
pub struct Terms {
    prefix: String,
    repeat: &'static str,
    id_window: Duration,
    reading_window: Duration,
}

fn handling(handling: DuplicateHandling) -> &'static str {
    match handling {
        DuplicateHandling::Drop => "drop",
        DuplicateHandling::Tag => "tag",
        DuplicateHandling::Off => "off",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Terms {
    /// By the settings. Bridges with another prefix, or with other topics than these, never meet in Redis.
    pub fn new(settings: &config::DedupConfig, prefix: &str, topics: &[String; 10]) -> Self {
        // No topic's name has a space.
        let topics = xxh3_64(topics.join(" ").as_bytes()) >> 32;
        Self {
            prefix: format!("{prefix}:{topics:08x}:"),
            repeat: handling(settings.repeat),
            id_window: settings.id_window,
            reading_window: settings.reading_window,
        }
    }

    fn key(&self, kind: &str, hash: u64) -> String {
        format!("{}{kind}{hash:016x}", self.prefix)
    }

    fn id(&self, hash: u64) -> String {
        self.key("i", hash)
    }

    fn newest(&self, subject: &Subject) -> String {
        self.key("n", subject.source)
    }

    fn epoch(&self) -> String {
        format!("{}e", self.prefix)
    }

    /// The current value of a cell, and the hold on it.
    fn cell(&self, subject: &Subject) -> impl Iterator<Item = String> {
        let both = subject
            .cell
            .map(|cell| [self.key("c", cell), self.key("h", cell)]);
        both.into_iter().flatten()
    }

    /// The same, and the epoch in which the value can be relied on.
    fn cell_and_epoch(&self, subject: &Subject) -> impl Iterator<Item = String> {
        let epoch = subject.cell.map(|_| self.epoch());
        self.cell(subject).chain(epoch)
    }

    /// The question what an event is. `conflict`, `current`: what the asking replica knows, should Redis have lost it;
    /// `doubt`: no current value is to be relied on.
    pub fn claim(
        &self,
        subject: &Subject,
        id: &EventId,
        redelivery: DuplicateHandling,
        (conflict, current): (bool, Option<&Current>),
        doubt: bool,
    ) -> Cmd {
        let mut keys = vec![
            self.id(subject.id),
            self.id(subject.own),
            self.newest(subject),
        ];
        keys.extend(self.cell_and_epoch(subject));
        let mut call = CLAIM.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE))
            .arg(&subject.reading.to_le_bytes())
            .arg(handling(redelivery))
            .arg(self.repeat)
            .arg(millis(self.id_window))
            .arg(subject.time)
            .arg(id.seconds().unwrap_or(-1))
            .arg(u8::from(conflict))
            .arg(current.map(pack).unwrap_or_default())
            .arg(u8::from(doubt))
            .arg(millis(SETTLING));
        call
    }

    /// Says that an event is stored, or may be; `None` when that is too long ago to matter.
    pub fn end(&self, ending: &Ending, now: Instant) -> Option<Cmd> {
        let age = now.saturating_duration_since(ending.at);
        let left = |window: Duration| millis(window.saturating_sub(age));
        if left(self.id_window.max(self.reading_window)) == 0 {
            return None;
        }
        Some(match ending.stored {
            Stored::Published => self.commit(ending, "p", left),
            Stored::Spooled => self.commit(ending, "s", left),
            Stored::Unknown => self.unknown(&ending.subject),
        })
    }

    fn commit(&self, ending: &Ending, state: &str, left: impl Fn(Duration) -> u64) -> Cmd {
        let subject = &ending.subject;
        let mut keys = vec![
            self.id(subject.own_if(ending.change.conflict)),
            self.newest(subject),
        ];
        keys.extend(self.cell_and_epoch(subject));
        let time = subject.plausible.then(|| subject.time.to_string());
        let current = ending.change.current.as_ref().map(pack);
        let mut call = COMMIT.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.to_le_bytes())
            .arg(left(self.id_window))
            .arg(time.unwrap_or_default())
            .arg(left(NEWEST))
            .arg(current.unwrap_or_default())
            .arg(left(self.reading_window))
            .arg(u8::from(ending.granted))
            .arg(state);
        call
    }

    /// Says that what was spooled is in Kafka.
    pub fn drained(&self, drained: &Drained) -> Cmd {
        let subject = &drained.subject;
        let mut keys = vec![self.id(subject.own_if(drained.conflict))];
        if drained.touches_current() {
            keys.extend(self.cell(subject));
        }
        let follows = drained.follows.as_ref().map(EventId::to_string);
        let mut call = DRAINED.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.to_le_bytes())
            .arg(drained.id.to_string())
            .arg(follows.unwrap_or_default());
        call
    }

    fn unknown(&self, subject: &Subject) -> Cmd {
        let mut call = UNKNOWN.call(&self.held(subject));
        call.arg(&subject.token).arg(millis(SETTLING));
        call
    }

    /// Gives back all that a claim may hold.
    pub fn release(&self, subject: &Subject) -> Cmd {
        let mut call = RELEASE.call(&self.held(subject));
        call.arg(&subject.token);
        call
    }

    fn held(&self, subject: &Subject) -> Vec<String> {
        let mut keys = vec![self.id(subject.id), self.id(subject.own)];
        keys.extend(self.cell(subject));
        keys
    }

    /// Keeps what a claim holds; of a conflict that is another id.
    pub fn renew(&self, subject: &Subject, conflict: bool) -> Cmd {
        let mut keys = vec![self.id(subject.own_if(conflict))];
        keys.extend(self.cell(subject).skip(1));
        let mut call = RENEW.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE))
            .arg(millis(SETTLING));
        call
    }

    /// From now on no current value that is there is relied on; `unique` nobody has ever given before. Only a Redis that can
    /// be written to answers it.
    pub fn new_epoch(&self, unique: &[u8]) -> Cmd {
        // Never all zero, which stands for none.
        let epoch = xxh3_64(unique) | 1;
        let mut call = cmd("SET");
        call.arg(self.epoch()).arg(&epoch.to_le_bytes());
        call.arg("PX").arg(millis(self.epoch_lasts()));
        call
    }

    /// Keeps the epoch; 0 where there is none any more.
    pub fn keep_epoch(&self) -> Cmd {
        let mut call = cmd("PEXPIRE");
        call.arg(self.epoch()).arg(millis(self.epoch_lasts()));
        call
    }

    /// Where it stands in which run of a server the epoch began, and for how long that is remembered, ms.
    pub fn server(&self) -> (String, u64) {
        (format!("{}s", self.prefix), millis(self.epoch_lasts()))
    }

    fn epoch_lasts(&self) -> Duration {
        EPOCH.max(2 * self.reading_window)
    }

    /// Something that only a Redis that can be written to answers.
    pub fn probe(&self) -> Cmd {
        let mut call = cmd("SET");
        call.arg(format!("{}probe", self.prefix)).arg(1);
        call.arg("PX").arg(millis(LEASE));
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigSources, load};
    use crate::kafka::client;

    fn config(flag: (&str, &str)) -> Option<Config> {
        let flags = [("kafka.bootstrap_servers", "127.0.0.1:1"), flag];
        let sources = ConfigSources {
            flags: flags.map(|(k, v)| (k.to_owned(), v.into())).into(),
            ..ConfigSources::default()
        };
        load(&sources, &|_, _| Ok(())).ok()
    }

    #[test]
    fn what_ended_unknown_is_remembered_for_longer_than_its_record_is_under_way() {
        let longest = ("http.answer_within", "60s");
        assert!(config(("http.answer_within", "60001ms")).is_none());
        for flag in [longest, ("spool.dir", "/var/lib/butlr-bridge")] {
            let config = config(flag).expect("a configuration");
            let [message, request] = client::timeouts(&config);
            assert!(message + request < SETTLING, "{message:?} {request:?}");
        }
    }
}
