//! What is said to Redis: keys, the scripts and what they are given.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xxhash_rust::xxh3::xxh3_64;

use super::answer::encode_current;
use crate::config::{self, DuplicateHandling};
use crate::dedup::EventFacts;
use crate::dedup::claim::CurrentReading;
use butlr_event::event_id::EventId;

/// For how long an undecided claim is held; renewed every [`RENEWAL`], and free for others when its holder died.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// Between two renewals of a claim that stays open.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// For how long it is remembered that a claim ended, or its holder died, without anybody knowing what became of its event:
/// longer than a record can be on its way to Kafka, with the settings of any replica. With a spool librdkafka goes on with it
/// for a minute, and the last request may take another 5 s; without one it is up to 60 s (`http.answer_within`) and three
/// quarters of that. Sooner, another value could be relied on behind which that record is stored.
const IN_DOUBT_TTL: Duration = Duration::from_secs(120);
/// For how long an epoch is remembered at least after the last replica has gone.
const MIN_EPOCH_TTL: Duration = Duration::from_secs(24 * 3600);
/// For how long the newest time of a source is remembered; a silent source is forgotten.
const NEWEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// A script, as it is loaded and as it is called.
pub struct LuaScript {
    /// Its text.
    pub text: &'static str,
    sha: String,
}

impl LuaScript {
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

static CLAIM: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("claim.lua")));
static COMMIT: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("commit.lua")));
static DRAINED: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("drained.lua")));
static RELEASE: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("release.lua")));
static UNKNOWN: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("unknown.lua")));
static RENEW: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("renew.lua")));

/// What has to be loaded into a Redis before it can be asked.
pub fn script_load_commands() -> impl Iterator<Item = Cmd> {
    [&CLAIM, &COMMIT, &DRAINED, &RELEASE, &UNKNOWN, &RENEW]
        .into_iter()
        .map(|script| {
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(script.text);
            load
        })
}

/// Names a claim: the process that made it and its number there.
pub type ClaimToken = [u8; 16];

/// What is claimed.
#[derive(Clone, Copy, Debug)]
pub struct ClaimSubject {
    /// Whose claim it is.
    pub token: ClaimToken,
    id_hash: u64,
    /// The key that the event has instead when another one is stored under its id.
    conflict_id_hash: u64,
    reading: u64,
    occupancy_key: Option<u64>,
    source_key: u64,
    /// The event's time, ms since 1970.
    timestamp_ms: i64,
    /// Whether that may become the newest of its source.
    has_plausible_time: bool,
}

impl ClaimSubject {
    /// What `facts` are about.
    pub fn new(token: ClaimToken, facts: &EventFacts<'_>) -> Self {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&facts.id_hash.to_le_bytes());
        both[8..].copy_from_slice(&facts.reading.to_le_bytes());
        Self {
            token,
            id_hash: facts.id_hash,
            conflict_id_hash: xxh3_64(&both),
            reading: facts.reading,
            occupancy_key: facts.occupancy_key,
            source_key: facts.source_key,
            timestamp_ms: facts.timestamp_ms,
            has_plausible_time: facts.has_plausible_time,
        }
    }
}

impl ClaimSubject {
    fn stored_id_hash(&self, conflict: bool) -> u64 {
        if conflict {
            self.conflict_id_hash
        } else {
            self.id_hash
        }
    }
}

/// What becomes of what is stored when the claim is committed.
#[derive(Clone, Debug, Default)]
pub struct ClaimChange {
    /// The event is stored under an id of its own.
    pub is_conflict: bool,
    /// What becomes the current value.
    pub current: Option<CurrentReading>,
}

/// A record in Kafka, or one that may be there: Redis is to know of it.
#[derive(Debug)]
pub struct ClaimEnd {
    /// What it is.
    pub subject: ClaimSubject,
    /// What it changes.
    pub change: ClaimChange,
    /// Whether and where it is stored.
    pub state: ClaimEndState,
    /// Since when.
    pub ended_at: Instant,
    /// Whether Redis granted its claim, so that nobody else may have published it.
    pub is_granted: bool,
    /// Whether Redis may have been told already.
    pub is_resent: bool,
}

/// What is known of a record in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEndState {
    /// Kafka has it.
    Published,
    /// It is on this replica's disk.
    Spooled,
    /// Nothing.
    Unknown,
}

/// What was spooled and is in Kafka now.
#[derive(Debug)]
pub struct DrainedClaim {
    /// What it is; the token says of which process.
    pub subject: ClaimSubject,
    /// Whether it is stored under an id of its own.
    pub is_conflict: bool,
    /// The id under which it was published.
    pub id: EventId,
    /// Whether it became the current value.
    pub became_current: bool,
    /// The id of a current value that the same replica gets into Kafka after it.
    pub successor: Option<EventId>,
}

impl DrainedClaim {
    /// Whether current values are to be looked at.
    pub fn can_affect_current(&self) -> bool {
        self.became_current && self.subject.occupancy_key.is_some()
    }
}

/// What all replicas have to agree on.
#[derive(Clone, Debug)]
pub struct RedisProtocol {
    prefix: String,
    repeat: &'static str,
    id_window: Duration,
    reading_window: Duration,
}

fn handling_name(handling: DuplicateHandling) -> &'static str {
    match handling {
        DuplicateHandling::Drop => "drop",
        DuplicateHandling::Tag => "tag",
        DuplicateHandling::Off => "off",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl RedisProtocol {
    /// By the settings. Bridges with another prefix, or with other topics than these, never meet in Redis.
    pub fn new(settings: &config::DedupConfig, prefix: &str, topics: &[String; 10]) -> Self {
        // No topic's name has a space.
        let topics = xxh3_64(topics.join(" ").as_bytes()) >> 32;
        Self {
            prefix: format!("{prefix}:{topics:08x}:"),
            repeat: handling_name(settings.repeat),
            id_window: settings.id_window,
            reading_window: settings.reading_window,
        }
    }

    fn key(&self, kind: &str, hash: u64) -> String {
        format!("{}{kind}{hash:016x}", self.prefix)
    }

    fn id_key(&self, hash: u64) -> String {
        self.key("i", hash)
    }

    fn newest_key(&self, subject: &ClaimSubject) -> String {
        self.key("n", subject.source_key)
    }

    fn epoch_key(&self) -> String {
        format!("{}e", self.prefix)
    }

    /// The current value of a cell, and the hold on it.
    fn occupancy_keys(&self, subject: &ClaimSubject) -> impl Iterator<Item = String> {
        let both = subject
            .occupancy_key
            .map(|cell| [self.key("c", cell), self.key("h", cell)]);
        both.into_iter().flatten()
    }

    /// The same, and the epoch in which the value can be relied on.
    fn occupancy_and_epoch_keys(&self, subject: &ClaimSubject) -> impl Iterator<Item = String> {
        let epoch = subject.occupancy_key.map(|_| self.epoch_key());
        self.occupancy_keys(subject).chain(epoch)
    }

    /// The question what an event is. `conflict`, `current`: what the asking replica knows, should Redis have lost it;
    /// `doubt`: no current value is to be relied on.
    pub fn claim(
        &self,
        subject: &ClaimSubject,
        id: &EventId,
        redelivery: DuplicateHandling,
        (conflict, current): (bool, Option<&CurrentReading>),
        is_recovering: bool,
    ) -> Cmd {
        let mut keys = vec![
            self.id_key(subject.id_hash),
            self.id_key(subject.conflict_id_hash),
            self.newest_key(subject),
        ];
        keys.extend(self.occupancy_and_epoch_keys(subject));
        let mut call = CLAIM.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE_TTL))
            .arg(&subject.reading.to_le_bytes())
            .arg(handling_name(redelivery))
            .arg(self.repeat)
            .arg(millis(self.id_window))
            .arg(subject.timestamp_ms)
            .arg(id.ksuid_seconds().unwrap_or(-1))
            .arg(u8::from(conflict))
            .arg(current.map(encode_current).unwrap_or_default())
            .arg(u8::from(is_recovering))
            .arg(millis(IN_DOUBT_TTL));
        call
    }

    /// Says that an event is stored, or may be; `None` when that is too long ago to matter.
    pub fn end(&self, ending: &ClaimEnd, now: Instant) -> Option<Cmd> {
        let age = now.saturating_duration_since(ending.ended_at);
        let left = |window: Duration| millis(window.saturating_sub(age));
        if left(self.id_window.max(self.reading_window)) == 0 {
            return None;
        }
        Some(match ending.state {
            ClaimEndState::Published => self.commit(ending, "p", left),
            ClaimEndState::Spooled => self.commit(ending, "s", left),
            ClaimEndState::Unknown => self.release_in_doubt(&ending.subject),
        })
    }

    fn commit(&self, ending: &ClaimEnd, state: &str, left: impl Fn(Duration) -> u64) -> Cmd {
        let subject = &ending.subject;
        let mut keys = vec![
            self.id_key(subject.stored_id_hash(ending.change.is_conflict)),
            self.newest_key(subject),
        ];
        keys.extend(self.occupancy_and_epoch_keys(subject));
        let time = subject
            .has_plausible_time
            .then(|| subject.timestamp_ms.to_string());
        let current = ending.change.current.as_ref().map(encode_current);
        let mut call = COMMIT.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.to_le_bytes())
            .arg(left(self.id_window))
            .arg(time.unwrap_or_default())
            .arg(left(NEWEST_TTL))
            .arg(current.unwrap_or_default())
            .arg(left(self.reading_window))
            .arg(u8::from(ending.is_granted))
            .arg(state);
        call
    }

    /// Says that what was spooled is in Kafka.
    pub fn mark_drained(&self, drained: &DrainedClaim) -> Cmd {
        let subject = &drained.subject;
        let mut keys = vec![self.id_key(subject.stored_id_hash(drained.is_conflict))];
        if drained.can_affect_current() {
            keys.extend(self.occupancy_keys(subject));
        }
        let follows = drained.successor.as_ref().map(EventId::to_string);
        let mut call = DRAINED.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.to_le_bytes())
            .arg(drained.id.to_string())
            .arg(follows.unwrap_or_default());
        call
    }

    fn release_in_doubt(&self, subject: &ClaimSubject) -> Cmd {
        let mut call = UNKNOWN.call(&self.claim_keys(subject));
        call.arg(&subject.token).arg(millis(IN_DOUBT_TTL));
        call
    }

    /// Gives back all that a claim may hold.
    pub fn release(&self, subject: &ClaimSubject) -> Cmd {
        let mut call = RELEASE.call(&self.claim_keys(subject));
        call.arg(&subject.token);
        call
    }

    fn claim_keys(&self, subject: &ClaimSubject) -> Vec<String> {
        let mut keys = vec![
            self.id_key(subject.id_hash),
            self.id_key(subject.conflict_id_hash),
        ];
        keys.extend(self.occupancy_keys(subject));
        keys
    }

    /// Keeps what a claim holds; of a conflict that is another id.
    pub fn renew(&self, subject: &ClaimSubject, conflict: bool) -> Cmd {
        let mut keys = vec![self.id_key(subject.stored_id_hash(conflict))];
        keys.extend(self.occupancy_keys(subject).skip(1));
        let mut call = RENEW.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE_TTL))
            .arg(millis(IN_DOUBT_TTL));
        call
    }

    /// From now on no current value that is there is relied on; `unique` nobody has ever given before. Only a Redis that can
    /// be written to answers it.
    pub fn begin_epoch(&self, unique: &[u8]) -> Cmd {
        // Never all zero, which stands for none.
        let epoch = xxh3_64(unique) | 1;
        let mut call = cmd("SET");
        call.arg(self.epoch_key()).arg(&epoch.to_le_bytes());
        call.arg("PX").arg(millis(self.epoch_ttl()));
        call
    }

    /// Keeps the epoch; 0 where there is none any more.
    pub fn keep_epoch(&self) -> Cmd {
        let mut call = cmd("PEXPIRE");
        call.arg(self.epoch_key()).arg(millis(self.epoch_ttl()));
        call
    }

    /// Where it stands in which run of a server the epoch began, and for how long that is remembered, ms.
    pub fn run_id_key(&self) -> (String, u64) {
        (format!("{}s", self.prefix), millis(self.epoch_ttl()))
    }

    fn epoch_ttl(&self) -> Duration {
        MIN_EPOCH_TTL.max(2 * self.reading_window)
    }

    /// Something that only a Redis that can be written to answers.
    pub fn probe(&self) -> Cmd {
        let mut call = cmd("SET");
        call.arg(format!("{}probe", self.prefix)).arg(1);
        call.arg("PX").arg(millis(LEASE_TTL));
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
            let [message, request] = client::delivery_timeouts(&config);
            assert!(message + request < IN_DOUBT_TTL, "{message:?} {request:?}");
        }
    }
}
