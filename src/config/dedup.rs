//! `[dedup]`: what becomes of events that came before.

use super::reader::Reader;
use super::secret;
use secrecy::SecretString;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What becomes of events that came before.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// Where claims are kept. Default memory.
    pub store: Store,
    /// What becomes of the same event, delivered again. Default drop.
    pub redelivery: Handling,
    /// What becomes of an occupancy computed again with the value that is there. Default drop.
    pub repeat: Handling,
    /// For how long an event's id is remembered after it was stored. Default 15 min.
    pub id_window: Duration,
    /// For how long the current value of an occupancy (type, space, timestamp) is remembered. Default 15 min.
    pub reading_window: Duration,
    /// Most ids remembered; beyond, the oldest goes. Default 4,000,000.
    pub max_ids: usize,
    /// Most current values remembered, and most spaces and sensors whose newest event is; beyond, the oldest goes. Default
    /// 1,000,000.
    pub max_readings: usize,
    /// For how long the windows are rebuilt from the topics after a start, at most; zero: not at all. Default 30 s.
    pub rebuild_within: Duration,
}

/// Where claims are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In this process: copies that reach different replicas are not recognised.
    Memory,
    /// Shared by all replicas.
    Redis(Redis),
}

/// The store that replicas share.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://[user[:password]@]host[:port][/database]`
    pub url: SecretString,
    /// How long an event waits for its answer before the bridge goes on with what it knows itself. Default 100 ms.
    pub timeout: Duration,
}

/// What becomes of a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Not published, and answered as a duplicate.
    Drop,
    /// Published with the header `ce_duplicate`.
    Tag,
    /// Published as if it were new.
    Off,
}

impl Dedup {
    /// Whether events are compared with what is stored at all.
    pub fn is_on(&self) -> bool {
        (self.redelivery, self.repeat) != (Handling::Off, Handling::Off)
    }
}

const HAS_DEFAULT: &str = "the table of keys has a default for it";
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const REBUILD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
const HANDLINGS: [(&str, Handling); 3] = [
    ("drop", Handling::Drop),
    ("tag", Handling::Tag),
    ("off", Handling::Off),
];

pub(super) fn read(section: &Reader<'_>) -> Dedup {
    let handling = |name| section.choice(name, &HANDLINGS).expect(HAS_DEFAULT);
    let window = |name| section.duration(name, WINDOW).expect(HAS_DEFAULT);
    let most = |name| section.integer(name, 1_000..=1_000_000_000);
    Dedup {
        store: store(section),
        redelivery: handling("redelivery"),
        repeat: handling("repeat"),
        id_window: window("id_window"),
        reading_window: window("reading_window"),
        max_ids: most("max_ids").expect(HAS_DEFAULT),
        max_readings: most("max_readings").expect(HAS_DEFAULT),
        rebuild_within: section
            .duration("rebuild_within", REBUILD)
            .expect(HAS_DEFAULT),
    }
}

fn store(section: &Reader<'_>) -> Store {
    let stores = [("memory", false), ("redis", true)];
    let is_redis = section.choice("store", &stores).expect(HAS_DEFAULT);
    let timeout = section
        .duration("redis_timeout", TIMEOUT)
        .expect(HAS_DEFAULT);
    let given = ["redis_url", "redis_url_file"]
        .into_iter()
        .find(|name| section.given(name));
    if !is_redis {
        if let Some(name) = given
            && section.sound(&["dedup.store"])
        {
            section.mistake(
                name,
                "is of no use while dedup.store is \"memory\"; set that to \"redis\", or leave this out",
            );
        }
        return Store::Memory;
    }
    let Some(url) = secret::required(section, "redis_url") else {
        return Store::Memory;
    };
    if let Err(problem) = redis_url(&url) {
        section.mistake(given.unwrap_or("redis_url"), problem);
        return Store::Memory;
    }
    Store::Redis(Redis { url, timeout })
}

/// The value is never repeated: it may hold a password.
fn redis_url(url: &SecretString) -> Result<(), &'static str> {
    use secrecy::ExposeSecret;
    const ALLOWED: &str = "is no such address; allowed: redis://host:6379, with user and password as in redis://user:password@host:6379/0";
    let rest = url.expose_secret().strip_prefix("redis://");
    let rest = rest.ok_or(ALLOWED)?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.is_empty() || host.starts_with(':') || host.contains(char::is_whitespace) {
        return Err(ALLOWED);
    }
    Ok(())
}
