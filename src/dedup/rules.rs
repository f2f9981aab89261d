//! The rules: how an event relates to what is stored. Pure functions.

use super::DedupVerdict;
use super::claim::CurrentReading;
use super::keys::ReadingHash;
use crate::config::DuplicateHandling;
use crate::marks::{DuplicateKind, Marks, Revision};
use butlr_event::event_id::EventId;

/// Relation of an event to what is stored, before the configured handling is applied.
pub(super) enum Classification {
    New,
    Duplicate(DuplicateKind),
    Revision(Revision),
    Stale,
}

/// Configured handling of duplicates.
#[derive(Clone, Copy)]
pub(super) struct HandlingPolicy {
    pub redelivery: DuplicateHandling,
    pub repeat: DuplicateHandling,
}

/// An occupancy event whose id is not stored with its reading.
pub(super) struct OccupancyCandidate<'e> {
    pub id: &'e EventId,
    pub reading: ReadingHash,
    /// Another reading is stored under its id.
    pub is_conflict: bool,
}

impl OccupancyCandidate<'_> {
    /// Compares the event with the current value of its (type, space, timestamp).
    pub fn classify(&self, current: Option<&CurrentReading>) -> Classification {
        match current {
            None => Classification::New,
            // Equal to the current value, but its id conflicts, so it is published.
            Some(current) if current.reading == self.reading && self.is_conflict => {
                Classification::New
            }
            Some(current) if current.reading == self.reading => {
                Classification::Duplicate(DuplicateKind::Repeat)
            }
            Some(current) if is_older(self.id, &current.id) => Classification::Stale,
            Some(current) => Classification::Revision(Revision {
                number: current.revision.saturating_add(1),
                supersedes: current.id.clone(),
            }),
        }
    }
}

impl Classification {
    /// Applies `policy`. `marks` holds the marks known so far; `is_out_of_order` is called for new
    /// events only.
    pub fn into_verdict(
        self,
        policy: HandlingPolicy,
        mut marks: Marks,
        is_out_of_order: impl FnOnce() -> bool,
    ) -> DedupVerdict {
        match self {
            Classification::New => marks.out_of_order = is_out_of_order(),
            Classification::Duplicate(kind) => {
                let handling = match kind {
                    DuplicateKind::Redelivery => policy.redelivery,
                    DuplicateKind::Repeat => policy.repeat,
                };
                match handling {
                    DuplicateHandling::Drop => return DedupVerdict::Duplicate(kind),
                    DuplicateHandling::Tag => marks.duplicate = Some(kind),
                    DuplicateHandling::Off => {}
                }
            }
            Classification::Revision(revision) => marks.revision = Some(revision),
            Classification::Stale => marks.stale = true,
        }
        DedupVerdict::Publish(marks)
    }
}

/// Compares the seconds in two ids; `false` if either is not a KSUID.
fn is_older(id: &EventId, than: &EventId) -> bool {
    matches!((id.ksuid_seconds(), than.ksuid_seconds()), (Some(one), Some(other)) if one < other)
}

/// Returns `true` if an event published with these marks may become the current value.
pub(super) fn can_become_current(marks: &Marks) -> bool {
    !marks.stale && marks.duplicate.is_none()
}

/// Returns the revision number with which an event published with `marks` becomes the current
/// value, or `None` if it does not.
pub(super) fn resulting_revision(
    marks: &Marks,
    current: Option<&CurrentReading>,
    reading: ReadingHash,
    id: &EventId,
) -> Option<u32> {
    if !can_become_current(marks) {
        return None;
    }
    if let Some(revision) = &marks.revision {
        return Some(revision.number);
    }
    match current {
        Some(current) if current.reading == reading => {
            let stays = marks.conflict.is_some() || is_older(id, &current.id);
            (!stays).then_some(current.revision)
        }
        _ => Some(0),
    }
}
