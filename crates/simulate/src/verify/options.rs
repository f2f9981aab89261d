//! How to verify, and what must hold.

use std::time::Duration;

use super::checker::MarkEvidence;
use super::headers::TimestampBasis;
use super::topics::VerifierKafka;
use crate::oracle::OracleVerdict;

/// How to verify.
#[derive(Clone)]
pub struct Options {
    /// Where the topics are.
    pub kafka: VerifierKafka,
    /// Copies of the run's topics, to be read from their beginning, instead of the originals.
    pub copy_topics: Option<String>,
    /// Which time records are stamped with.
    pub timestamps: TimestampBasis,
    /// The bridge's `kafka.max_past`.
    pub max_past: Duration,
    /// The bridge's `kafka.max_future`.
    pub max_future: Duration,
    /// Whether the bridge must recognise duplicates and revisions.
    pub duplicates: DuplicatePolicy,
    /// Whether the bridge was started again during the run, or was one of several that share nothing. Then it need not know
    /// the ids of repeats, of which no record tells; otherwise [`Duplicates::Expected`] asks for those, too.
    pub restarted: bool,
    /// So long after an event was received, the bridge must know that it is stored: an older one of the same source that is
    /// received then without being marked as out of order is wrong. For a single bridge, or such as share what they know;
    /// `None`: not asked for, as nothing in a record tells when it was stored.
    pub known_after: Option<Duration>,
    /// So far a bridge's clock may have been put back while it ran: what it received before may seem to have come later.
    pub clock_setback: Duration,
    /// Whether events may have passed those that waited on disk (`spool.drain = "concurrent"`). What waits then is stored last
    /// in the end, and a bridge that was started again takes it for the current value already.
    pub concurrent_drain: bool,
}

impl Options {
    /// The originals there, of a bridge with default settings.
    pub fn new(kafka: VerifierKafka) -> Self {
        Self {
            kafka,
            copy_topics: None,
            timestamps: TimestampBasis::Event,
            max_past: Duration::from_secs(3 * 86_400),
            max_future: Duration::from_secs(60),
            duplicates: DuplicatePolicy::default(),
            restarted: false,
            known_after: None,
            clock_setback: Duration::ZERO,
            concurrent_drain: false,
        }
    }
}

/// Whether the bridge must recognise redeliveries, repeats, revisions and stale ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DuplicatePolicy {
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
pub(super) struct JudgmentRules {
    required: MarkEvidence,
    /// Whether the ids of repeats must be known, too.
    requires_repeat_ids: bool,
    /// Whether a current value may be in doubt, as after a crash.
    allows_doubt: bool,
    /// Whether a spool may have been found by another process, after a crash.
    spool_recovered: bool,
    /// Whether what that spool held counts as the current value, also where it was overtaken.
    concurrent_drain: bool,
}

impl JudgmentRules {
    /// `None`: there is nothing to judge.
    pub(super) fn from_policy(
        duplicates: DuplicatePolicy,
        restarted: bool,
        overtaken: bool,
        signs: MarkEvidence,
    ) -> Option<Self> {
        let recovered = duplicates == DuplicatePolicy::Allowed && restarted;
        let all = |recognised| MarkEvidence {
            redelivery: recognised,
            repeat: recognised,
            revision: recognised,
        };
        let signs = match duplicates {
            DuplicatePolicy::Detect if !signs.has_any() => return None,
            DuplicatePolicy::Detect => signs,
            DuplicatePolicy::Expected => all(true),
            DuplicatePolicy::Allowed => all(false),
        };
        Some(Self {
            required: signs,
            requires_repeat_ids: duplicates == DuplicatePolicy::Expected && !restarted,
            allows_doubt: duplicates == DuplicatePolicy::Allowed,
            spool_recovered: recovered,
            concurrent_drain: recovered && overtaken,
        })
    }

    /// Whether an event may be stored as a revision, of whichever value, although it is such a one by the rules: nothing is
    /// lost by it. What a bridge stored before it was started again it may not know yet, also that a value is stale.
    pub(super) fn can_excuse_revision(self, verdict: OracleVerdict) -> bool {
        match verdict {
            OracleVerdict::Repeat | OracleVerdict::Revision => self.allows_doubt,
            OracleVerdict::Stale => self.spool_recovered,
            OracleVerdict::First | OracleVerdict::Redelivery => false,
        }
    }

    /// Whether a revision may be taken for a repeat of a value before the current one, which waited on disk: it is stored last.
    pub(super) fn can_excuse_repeat(self) -> bool {
        self.concurrent_drain
    }

    /// Whether of several tries of an event that were answered published or spooled one record may be enough.
    pub(super) fn has_recovered_spool(self) -> bool {
        self.spool_recovered
    }

    /// Whether redeliveries of repeats must be recognised.
    pub(super) fn has_repeat_ids(self) -> bool {
        self.requires_repeat_ids
    }

    pub(super) fn is_required(self, verdict: OracleVerdict) -> bool {
        let Self {
            required: signs, ..
        } = self;
        match verdict {
            OracleVerdict::First => false,
            OracleVerdict::Redelivery => signs.redelivery,
            OracleVerdict::Repeat => signs.repeat,
            OracleVerdict::Revision | OracleVerdict::Stale => signs.revision,
        }
    }
}
