//! Options of a verification, and the rules that follow from them.

use std::time::Duration;

use super::checker::MarkEvidence;
use super::headers::TimestampBasis;
use super::topics::VerifierKafka;
use crate::oracle::OracleVerdict;

/// Options of a verification.
#[derive(Clone)]
pub struct Options {
    /// The Kafka cluster that has the topics.
    pub kafka: VerifierKafka,
    /// Template of topics that are copies of the run's. They are read from their beginning, instead
    /// of the originals.
    pub copy_topics: Option<String>,
    /// The bridge's `kafka.timestamp`.
    pub timestamps: TimestampBasis,
    /// The bridge's `kafka.max_past`.
    pub max_past: Duration,
    /// The bridge's `kafka.max_future`.
    pub max_future: Duration,
    /// The rules for duplicates and revisions.
    pub duplicates: DuplicatePolicy,
    /// The bridge was restarted during the run, or was one of several that share no state. It then
    /// need not know the ids of repeats, which no record contains; otherwise
    /// [`DuplicatePolicy::Expected`] requires that, too.
    pub restarted: bool,
    /// Time after the receipt of an event within which the bridge must know that it is stored. An
    /// older event of the same source that is received later must be marked as out of order. For a
    /// single bridge, or several that share their state. `None` disables the check, because no
    /// record contains the time at which it was stored.
    pub known_after: Option<Duration>,
    /// The furthest that the bridge's clock can have been set back during the run. Events received
    /// before that can seem to have been received later.
    pub clock_setback: Duration,
    /// The bridge ran with `spool.drain = "concurrent"`, so new events can overtake spooled ones.
    /// A spooled event is then stored last, and a restarted bridge already takes it for the current
    /// value.
    pub concurrent_drain: bool,
}

impl Options {
    /// Verifies the original topics of a bridge with default settings.
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

/// The kinds of duplicates and revisions that the bridge must recognise. (The variants' docs are
/// the `--help` text.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DuplicatePolicy {
    /// The bridge must recognise the kinds that it demonstrably recognises, according to the run's
    /// responses and headers. Without any, nothing is judged.
    #[default]
    Detect,
    /// The bridge must recognise all kinds.
    Expected,
    /// The bridge need not recognise any. Duplicates classified as new, or as a revision because
    /// the current value was in doubt, are counted. An event that is not a duplicate must still not
    /// be classified as one. If the bridge was restarted and an event had several attempts, the
    /// spooled ones need no record of their own: the bridge drops spooled entries that the topics
    /// already hold.
    Allowed,
}

/// The rules by which classifications are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct JudgmentRules {
    required: MarkEvidence,
    /// The ids of repeats must be known, too.
    requires_repeat_ids: bool,
    /// The current value may be in doubt, as after a crash.
    allows_doubt: bool,
    /// A spool may have been recovered by a later process, after a crash.
    spool_recovered: bool,
    /// A recovered entry counts as the current value even if it was overtaken.
    concurrent_drain: bool,
}

impl JudgmentRules {
    /// Returns `None` if there is nothing to judge.
    pub(super) fn new(options: &Options, evidence: MarkEvidence) -> Option<Self> {
        let duplicates = options.duplicates;
        let recovered = duplicates == DuplicatePolicy::Allowed && options.restarted;
        let all = |recognised| MarkEvidence {
            redelivery: recognised,
            repeat: recognised,
            revision: recognised,
        };
        let required = match duplicates {
            DuplicatePolicy::Detect if !evidence.has_any() => return None,
            DuplicatePolicy::Detect => evidence,
            DuplicatePolicy::Expected => all(true),
            DuplicatePolicy::Allowed => all(false),
        };
        Some(Self {
            required,
            requires_repeat_ids: duplicates == DuplicatePolicy::Expected && !options.restarted,
            allows_doubt: duplicates == DuplicatePolicy::Allowed,
            spool_recovered: recovered,
            concurrent_drain: recovered && options.concurrent_drain,
        })
    }

    /// Returns `true` if an event with this verdict may be stored as a revision instead, of any
    /// value: nothing is lost by that. A restarted bridge may not know yet what it stored before,
    /// nor that a value is stale.
    pub(super) fn can_excuse_revision(self, verdict: OracleVerdict) -> bool {
        match verdict {
            OracleVerdict::Repeat | OracleVerdict::Revision => self.allows_doubt,
            OracleVerdict::Stale => self.spool_recovered,
            OracleVerdict::First | OracleVerdict::Redelivery => false,
        }
    }

    /// Returns `true` if a revision may be classified as a repeat of a value before the current
    /// one: if that value was spooled, it is stored last.
    pub(super) fn can_excuse_repeat(self) -> bool {
        self.concurrent_drain
    }

    /// Returns `true` if one record can be enough for several published or spooled attempts.
    pub(super) fn has_recovered_spool(self) -> bool {
        self.spool_recovered
    }

    /// Returns `true` if redeliveries of repeats must be recognised.
    pub(super) fn has_repeat_ids(self) -> bool {
        self.requires_repeat_ids
    }

    /// Returns `true` if events with this verdict must be recognised as such.
    pub(super) fn is_required(self, verdict: OracleVerdict) -> bool {
        match verdict {
            OracleVerdict::First => false,
            OracleVerdict::Redelivery => self.required.redelivery,
            OracleVerdict::Repeat => self.required.repeat,
            OracleVerdict::Revision | OracleVerdict::Stale => self.required.revision,
        }
    }
}
