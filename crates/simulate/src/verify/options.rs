//! How to verify, and what must hold.

use std::time::Duration;

use super::check::Signs;
use super::headers::Timestamps;
use super::topics::Kafka;
use crate::oracle::Verdict;

/// How to verify.
#[derive(Clone)]
pub struct Options {
    /// Where the topics are.
    pub kafka: Kafka,
    /// Copies of the run's topics, to be read from their beginning, instead of the originals.
    pub copies: Option<String>,
    /// Which time records are stamped with.
    pub timestamps: Timestamps,
    /// The bridge's `kafka.max_past`.
    pub max_past: Duration,
    /// The bridge's `kafka.max_future`.
    pub max_future: Duration,
    /// Whether the bridge must recognise duplicates and revisions.
    pub duplicates: Duplicates,
    /// Whether the bridge was started again during the run, or was one of several that share nothing. Then it need not know
    /// the ids of repeats, of which no record tells; otherwise [`Duplicates::Expected`] asks for those, too.
    pub restarted: bool,
    /// So long after an event was received, the bridge must know that it is stored: an older one of the same source that is
    /// received then without being marked as out of order is wrong. For a single bridge, or such as share what they know;
    /// `None`: not asked for, as nothing in a record tells when it was stored.
    pub known_after: Option<Duration>,
    /// So far a bridge's clock may have been put back while it ran: what it received before may seem to have come later.
    pub put_back: Duration,
    /// Whether events may have passed those that waited on disk (`spool.drain = "concurrent"`). What waits then is stored last
    /// in the end, and a bridge that was started again takes it for the current value already.
    pub overtaken: bool,
}

impl Options {
    /// The originals there, of a bridge with default settings.
    pub fn of(kafka: Kafka) -> Self {
        Self {
            kafka,
            copies: None,
            timestamps: Timestamps::Event,
            max_past: Duration::from_secs(3 * 86_400),
            max_future: Duration::from_secs(60),
            duplicates: Duplicates::default(),
            restarted: false,
            known_after: None,
            put_back: Duration::ZERO,
            overtaken: false,
        }
    }
}

/// Whether the bridge must recognise redeliveries, repeats, revisions and stale ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Duplicates {
    /// Those kinds of which an answer or a header of the run shows that it recognises them; without any, none is judged.
    #[default]
    Detect,
    /// All.
    Expected,
    /// It need not: such that are taken for something new, or for a revision because the current value was in doubt, are
    /// counted. What is no duplicate must still not be taken for one. If the bridge was started again
    /// ([`Options::restarted`]), of several tries of an event those that were answered spooled need no record of their own:
    /// it drops from its spool what the topics hold already.
    Allowed,
}

/// Which kinds must be recognised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judging {
    signs: Signs,
    /// Whether the ids of repeats must be known, too.
    repeats_ids: bool,
    /// Whether a current value may be in doubt, as after a crash.
    doubts: bool,
    /// Whether a spool may have been found by another process, after a crash.
    recovered: bool,
    /// Whether what that spool held counts as the current value, also where it was overtaken.
    overtaken: bool,
}

impl Judging {
    /// `None`: there is nothing to judge.
    pub(super) fn of(
        duplicates: Duplicates,
        restarted: bool,
        overtaken: bool,
        signs: Signs,
    ) -> Option<Self> {
        let recovered = duplicates == Duplicates::Allowed && restarted;
        let all = |recognised| Signs {
            redelivery: recognised,
            repeat: recognised,
            revision: recognised,
        };
        let signs = match duplicates {
            Duplicates::Detect if !signs.any() => return None,
            Duplicates::Detect => signs,
            Duplicates::Expected => all(true),
            Duplicates::Allowed => all(false),
        };
        Some(Self {
            signs,
            repeats_ids: duplicates == Duplicates::Expected && !restarted,
            doubts: duplicates == Duplicates::Allowed,
            recovered,
            overtaken: recovered && overtaken,
        })
    }

    /// Whether an event may be stored as a revision, of whichever value, although it is such a one by the rules: nothing is
    /// lost by it. What a bridge stored before it was started again it may not know yet, also that a value is stale.
    pub(super) fn excuses_a_revision(self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Repeat | Verdict::Revision => self.doubts,
            Verdict::Stale => self.recovered,
            Verdict::First | Verdict::Redelivery => false,
        }
    }

    /// Whether a revision may be taken for a repeat of a value before the current one, which waited on disk: it is stored last.
    pub(super) fn excuses_a_repeat(self) -> bool {
        self.overtaken
    }

    /// Whether of several tries of an event that were answered published or spooled one record may be enough.
    pub(super) fn may_have_recovered(self) -> bool {
        self.recovered
    }

    /// Whether redeliveries of repeats must be recognised.
    pub(super) fn expects_repeats_ids(self) -> bool {
        self.repeats_ids
    }

    pub(super) fn expects(self, verdict: Verdict) -> bool {
        let Self { signs, .. } = self;
        match verdict {
            Verdict::First => false,
            Verdict::Redelivery => signs.redelivery,
            Verdict::Repeat => signs.repeat,
            Verdict::Revision | Verdict::Stale => signs.revision,
        }
    }
}
