//! What is said to Redis: keys, the four scripts and what they are given.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xxhash_rust::xxh3::xxh3_64;

use super::answer::pack;
use crate::config::{self, Handling};
use crate::dedup::Facts;
use crate::dedup::claim::Current;
use crate::dedup::event_id::EventId;

/// For how long an undecided claim is held; renewed every [`RENEWAL`], and free for others when its holder died.
pub const LEASE: Duration = Duration::from_secs(3);
/// Between two renewals of a claim that stays open.
pub const RENEWAL: Duration = Duration::from_secs(1);
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
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// What has to be loaded into a Redis before it can be asked.
pub fn scripts() -> impl Iterator<Item = Cmd> {
    [&CLAIM, &COMMIT, &RELEASE, &RENEW]
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

/// What becomes of what is stored when the claim is committed.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The event is stored under an id of its own.
    pub conflict: bool,
    /// What becomes the current value.
    pub current: Option<Current>,
}

/// A record in Kafka that Redis is to know of.
#[derive(Debug)]
pub struct Stored {
    /// What it is.
    pub subject: Subject,
    /// What it changes.
    pub change: Change,
    /// Since when.
    pub at: Instant,
    /// Whether Redis granted its claim, so that nobody else may have published it.
    pub granted: bool,
    /// Whether Redis may have been told already.
    pub again: bool,
}

/// What all replicas have to agree on.
#[derive(Clone, Debug)]
pub struct Terms {
    prefix: String,
    redelivery: &'static str,
    repeat: &'static str,
    id_window: Duration,
    reading_window: Duration,
}

fn handling(handling: Handling) -> &'static str {
    match handling {
        Handling::Drop => "drop",
        Handling::Tag => "tag",
        Handling::Off => "off",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Terms {
    /// By the settings. Bridges with other topics than these never meet in Redis.
    pub fn new(settings: &config::Dedup, topic_template: &str) -> Self {
        let topics = xxh3_64(topic_template.as_bytes()) >> 32;
        Self {
            prefix: format!("butlr-bridge:{topics:08x}:"),
            redelivery: handling(settings.redelivery),
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

    /// The current value of a cell, and the hold on it.
    fn cell(&self, subject: &Subject) -> impl Iterator<Item = String> {
        let both = subject
            .cell
            .map(|cell| [self.key("c", cell), self.key("h", cell)]);
        both.into_iter().flatten()
    }

    /// The question what an event is. `conflict`, `current`: what the asking replica knows, should Redis have lost it.
    pub fn claim(
        &self,
        subject: &Subject,
        id: &EventId,
        conflict: bool,
        current: Option<&Current>,
    ) -> Cmd {
        let mut keys = vec![
            self.id(subject.id),
            self.id(subject.own),
            self.newest(subject),
        ];
        keys.extend(self.cell(subject));
        let mut call = CLAIM.call(&keys);
        call.arg(&subject.token)
            .arg(millis(LEASE))
            .arg(&subject.reading.to_le_bytes())
            .arg(self.redelivery)
            .arg(self.repeat)
            .arg(millis(self.id_window))
            .arg(subject.time)
            .arg(id.seconds().unwrap_or(-1))
            .arg(u8::from(conflict))
            .arg(current.map(pack).unwrap_or_default());
        call
    }

    /// Says that an event is stored; `None` when that is too long ago to matter.
    pub fn commit(&self, stored: &Stored, now: Instant) -> Option<Cmd> {
        let subject = &stored.subject;
        let age = now.saturating_duration_since(stored.at);
        let left = |window: Duration| millis(window.saturating_sub(age));
        if left(self.id_window.max(self.reading_window)) == 0 {
            return None;
        }
        let mut keys = vec![
            self.id(if stored.change.conflict {
                subject.own
            } else {
                subject.id
            }),
            self.newest(subject),
        ];
        keys.extend(self.cell(subject));
        let time = subject.plausible.then(|| subject.time.to_string());
        let current = stored.change.current.as_ref().map(pack);
        let mut call = COMMIT.call(&keys);
        call.arg(&subject.token)
            .arg(&subject.reading.to_le_bytes())
            .arg(left(self.id_window))
            .arg(time.unwrap_or_default())
            .arg(left(NEWEST))
            .arg(current.unwrap_or_default())
            .arg(left(self.reading_window));
        Some(call)
    }

    /// Gives back all that a claim may hold.
    pub fn release(&self, subject: &Subject) -> Cmd {
        let mut keys = vec![self.id(subject.id), self.id(subject.own)];
        keys.extend(self.cell(subject).skip(1));
        let mut call = RELEASE.call(&keys);
        call.arg(&subject.token);
        call
    }

    /// Keeps what a claim holds.
    pub fn renew(&self, subject: &Subject, change: &Change) -> Cmd {
        let mut keys = vec![self.id(if change.conflict {
            subject.own
        } else {
            subject.id
        })];
        if change.current.is_some() {
            keys.extend(self.cell(subject).skip(1));
        }
        let mut call = RENEW.call(&keys);
        call.arg(&subject.token).arg(millis(LEASE));
        call
    }

    /// Something that only a Redis that can be written to answers.
    pub fn probe(&self) -> Cmd {
        let mut call = cmd("SET");
        call.arg(format!("{}probe", self.prefix)).arg(1);
        call.arg("PX").arg(millis(LEASE));
        call
    }
}
