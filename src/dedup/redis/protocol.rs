//! Keys, scripts and commands.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xxhash_rust::xxh3::xxh3_64;

use super::answer::encode_current;
use super::lease::LeaseRenewal;
use crate::config::{self, DuplicateHandling};
use crate::dedup::EventFacts;
use crate::dedup::claim::CurrentReading;
use crate::dedup::keys::{IdHash, OccupancyKey, ReadingHash, SourceKey};
use butlr_event::event_id::EventId;

/// Lease of an undecided claim: it is renewed every [`RENEWAL_INTERVAL`], and expires when its
/// holder dies.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// Interval between two renewals of an open claim.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a claim that ended in doubt, or whose holder died, is remembered. It is longer
/// than a record can be on its way to Kafka under any replica's settings: with a spool, librdkafka
/// retries for a minute and the last request may take another 5 s; without one it is up to 60 s
/// (`http.answer_within`) and three quarters of that. With a shorter time, another value could be
/// trusted before that record is stored behind it.
const IN_DOUBT_TTL: Duration = Duration::from_secs(120);
/// Minimum time for which an epoch outlives the last replica.
const MIN_EPOCH_TTL: Duration = Duration::from_secs(24 * 3600);
/// Time after which a silent source is forgotten.
const NEWEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// A Lua script with its SHA-1, by which it is called.
pub struct LuaScript {
    /// Its source.
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
static RELEASE_IN_DOUBT: LazyLock<LuaScript> =
    LazyLock::new(|| LuaScript::new(include_str!("release_in_doubt.lua")));
static RENEW: LazyLock<LuaScript> = LazyLock::new(|| LuaScript::new(include_str!("renew.lua")));

/// Commands that load the scripts into Redis.
pub fn script_load_commands() -> impl Iterator<Item = Cmd> {
    [
        &CLAIM,
        &COMMIT,
        &DRAINED,
        &RELEASE,
        &RELEASE_IN_DOUBT,
        &RENEW,
    ]
    .into_iter()
    .map(|script| {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(script.text);
        load
    })
}

/// Identifies a claim: its process, and its number there.
pub type ClaimToken = [u8; 16];

/// The event of a claim.
#[derive(Clone, Copy, Debug)]
pub struct ClaimSubject {
    /// The claim's token.
    pub token: ClaimToken,
    id_hash: IdHash,
    /// Replaces the id's hash if another event is stored under the id.
    conflict_id_hash: IdHash,
    reading: ReadingHash,
    occupancy_key: Option<OccupancyKey>,
    source_key: SourceKey,
    /// The event's own time, ms since 1970.
    timestamp_ms: i64,
    /// That time may be the newest of its source.
    has_plausible_time: bool,
}

impl ClaimSubject {
    /// Creates the subject of a claim on the event with these facts.
    pub fn new(token: ClaimToken, facts: &EventFacts<'_>) -> Self {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&facts.id_hash.0.to_le_bytes());
        both[8..].copy_from_slice(&facts.reading.0.to_le_bytes());
        Self {
            token,
            id_hash: facts.id_hash,
            conflict_id_hash: IdHash(xxh3_64(&both)),
            reading: facts.reading,
            occupancy_key: facts.occupancy_key,
            source_key: facts.source_key,
            timestamp_ms: facts.timestamp_ms,
            has_plausible_time: facts.has_plausible_time,
        }
    }

    /// The hash under which the event's id is stored.
    fn stored_id_hash(&self, is_conflict: bool) -> IdHash {
        if is_conflict {
            self.conflict_id_hash
        } else {
            self.id_hash
        }
    }
}

/// Change that committing a claim makes.
#[derive(Clone, Debug, Default)]
pub struct ClaimChange {
    /// The event is stored under the id of a conflict.
    pub is_conflict: bool,
    /// The new current value.
    pub current: Option<CurrentReading>,
}

/// End of a claim whose event is stored, or may be.
#[derive(Debug)]
pub struct ClaimEnd {
    /// The event.
    pub subject: ClaimSubject,
    /// The change that it makes.
    pub change: ClaimChange,
    /// Outcome.
    pub state: ClaimEndState,
    /// Time of the end.
    pub ended_at: Instant,
    /// Redis' answer to the claim.
    pub grant: ClaimGrant,
    /// It may have been sent before.
    pub is_resent: bool,
}

/// Redis' answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimGrant {
    /// Redis granted the claim, so no other replica can have published the event.
    Granted,
    /// The claim was made without Redis.
    Ungranted,
}

/// Outcome of publishing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEndState {
    /// The event is in Kafka.
    Published,
    /// The event is in this replica's spool.
    Spooled,
    /// In doubt: the event may be in Kafka.
    Unknown,
}

/// Knowledge of the asking replica, in case Redis has lost it.
pub struct LocalKnowledge<'k> {
    /// Another event is stored under the id.
    pub is_conflict: bool,
    /// The current value.
    pub current: Option<&'k CurrentReading>,
    /// Redis was unavailable a moment ago: no current value is to be trusted.
    pub is_recovering: bool,
}

/// Key that holds the run id of the server in which the epoch began.
pub struct RunIdKey {
    /// The key.
    pub key: String,
    /// Its time to live in ms.
    pub ttl_ms: u64,
}

/// A spooled event that is now in Kafka.
#[derive(Debug)]
pub struct DrainedClaim {
    /// The event; its token identifies the process.
    pub subject: ClaimSubject,
    /// The event is stored under the id of a conflict.
    pub is_conflict: bool,
    /// The id under which it was published.
    pub id: EventId,
    /// It may have become the current value.
    pub became_current: bool,
    /// Id of a current value that the same replica drains after it.
    pub successor: Option<EventId>,
}

impl DrainedClaim {
    /// Returns `true` if the current value must be checked.
    pub fn can_affect_current(&self) -> bool {
        self.became_current && self.subject.occupancy_key.is_some()
    }
}

/// Keys and commands on which all replicas agree.
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
    /// Creates the protocol. Bridges with another prefix, or with other topics, use other keys.
    pub fn new(settings: &config::DedupConfig, prefix: &str, topics: &[String; 10]) -> Self {
        // Topic names contain no spaces.
        let topics = xxh3_64(topics.join(" ").as_bytes()) >> 32;
        Self {
            prefix: format!("{prefix}:{topics:08x}:"),
            repeat: handling_name(settings.repeat),
            id_window: settings.id_window,
            reading_window: settings.reading_window,
        }
    }

    fn key(&self, kind: &str, hash: impl Into<u64>) -> String {
        format!("{}{kind}{:016x}", self.prefix, hash.into())
    }

    fn id_key(&self, hash: IdHash) -> String {
        self.key("i", hash)
    }

    fn newest_key(&self, subject: &ClaimSubject) -> String {
        self.key("n", subject.source_key)
    }

    fn epoch_key(&self) -> String {
        format!("{}e", self.prefix)
    }

    /// Keys of the current value and of the hold on it.
    fn occupancy_keys(&self, subject: &ClaimSubject) -> impl Iterator<Item = String> {
        let both = subject
            .occupancy_key
            .map(|key| [self.key("c", key), self.key("h", key)]);
        both.into_iter().flatten()
    }

    /// The same, and the key of the epoch.
    fn occupancy_and_epoch_keys(&self, subject: &ClaimSubject) -> impl Iterator<Item = String> {
        let epoch = subject.occupancy_key.map(|_| self.epoch_key());
        self.occupancy_keys(subject).chain(epoch)
    }

    /// Claims an event.
    pub fn claim(
        &self,
        subject: &ClaimSubject,
        id: &EventId,
        redelivery: DuplicateHandling,
        knowledge: &LocalKnowledge<'_>,
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
            .arg(&subject.reading.0.to_le_bytes())
            .arg(handling_name(redelivery))
            .arg(self.repeat)
            .arg(millis(self.id_window))
            .arg(subject.timestamp_ms)
            .arg(id.ksuid_seconds().unwrap_or(-1))
            .arg(u8::from(knowledge.is_conflict))
            .arg(knowledge.current.map(encode_current).unwrap_or_default())
            .arg(u8::from(knowledge.is_recovering))
            .arg(millis(IN_DOUBT_TTL));
        call
    }

    /// Reports that an event is stored, or may be. Returns `None` if that is too long ago to
    /// matter.
    pub fn end(&self, end: &ClaimEnd, now: Instant) -> Option<Cmd> {
        let age = now.saturating_duration_since(end.ended_at);
        let left = |window: Duration| millis(window.saturating_sub(age));
        if left(self.id_window.max(self.reading_window)) == 0 {
            return None;
        }
        Some(match end.state {
            ClaimEndState::Published => self.commit(end, "p", left),
            ClaimEndState::Spooled => self.commit(end, "s", left),
            ClaimEndState::Unknown => self.release_in_doubt(&end.subject),
        })
    }

    fn commit(&self, end: &ClaimEnd, state: &str, left: impl Fn(Duration) -> u64) -> Cmd {
        let subject = &end.subject;
        let mut keys = vec![
            self.id_key(subject.stored_id_hash(end.change.is_conflict)),
            self.newest_key(subject),
        ];
        keys.extend(self.occupancy_and_epoch_keys(subject));
        let time = subject
            .has_plausible_time
            .then(|| subject.timestamp_ms.to_string());
        let current = end.change.current.as_ref().map(encode_current);
        let mut call = COMMIT.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.0.to_le_bytes())
            .arg(left(self.id_window))
            .arg(time.unwrap_or_default())
            .arg(left(NEWEST_TTL))
            .arg(current.unwrap_or_default())
            .arg(left(self.reading_window))
            .arg(u8::from(end.grant == ClaimGrant::Granted))
            .arg(state);
        call
    }

    /// Reports that a spooled event is in Kafka.
    pub fn mark_drained(&self, drained: &DrainedClaim) -> Cmd {
        let subject = &drained.subject;
        let mut keys = vec![self.id_key(subject.stored_id_hash(drained.is_conflict))];
        if drained.can_affect_current() {
            keys.extend(self.occupancy_keys(subject));
        }
        let successor = drained.successor.as_ref().map(EventId::to_string);
        let mut call = DRAINED.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.0.to_le_bytes())
            .arg(drained.id.to_string())
            .arg(successor.unwrap_or_default());
        call
    }

    fn release_in_doubt(&self, subject: &ClaimSubject) -> Cmd {
        let mut call = RELEASE_IN_DOUBT.call(&self.claim_keys(subject));
        call.arg(&subject.token).arg(millis(IN_DOUBT_TTL));
        call
    }

    /// Releases everything that a claim may hold.
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

    /// Renews the lease of a claim.
    pub fn renew(&self, renewal: &LeaseRenewal) -> Cmd {
        let subject = &renewal.subject;
        let mut keys = vec![self.id_key(subject.stored_id_hash(renewal.is_conflict))];
        keys.extend(self.occupancy_keys(subject).skip(1));
        let mut call = RENEW.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE_TTL))
            .arg(millis(IN_DOUBT_TTL));
        call
    }

    /// Begins an epoch: no current value now in Redis is trusted any more. `unique` must never have
    /// been used before. Succeeds only if Redis accepts writes.
    pub fn begin_epoch(&self, unique: &[u8]) -> Cmd {
        // Never zero, which stands for no epoch.
        let epoch = xxh3_64(unique) | 1;
        let mut call = cmd("SET");
        call.arg(self.epoch_key()).arg(&epoch.to_le_bytes());
        call.arg("PX").arg(millis(self.epoch_ttl()));
        call
    }

    /// Keeps the epoch; answers 0 if there is none any more.
    pub fn keep_epoch(&self) -> Cmd {
        let mut call = cmd("PEXPIRE");
        call.arg(self.epoch_key()).arg(millis(self.epoch_ttl()));
        call
    }

    /// The key that holds the run id of the server in which the epoch began.
    pub fn run_id_key(&self) -> RunIdKey {
        RunIdKey {
            key: format!("{}s", self.prefix),
            ttl_ms: millis(self.epoch_ttl()),
        }
    }

    fn epoch_ttl(&self) -> Duration {
        MIN_EPOCH_TTL.max(2 * self.reading_window)
    }

    /// A command that succeeds only if Redis accepts writes.
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
    fn a_claim_in_doubt_is_remembered_for_longer_than_its_record_is_in_flight() {
        let longest = ("http.answer_within", "60s");
        assert!(config(("http.answer_within", "60001ms")).is_none());
        for flag in [longest, ("spool.dir", "/var/lib/butlr-bridge")] {
            let config = config(flag).expect("a valid configuration");
            let [message, request] = client::delivery_timeouts(&config);
            assert!(message + request < IN_DOUBT_TTL, "{message:?} {request:?}");
        }
    }
}
