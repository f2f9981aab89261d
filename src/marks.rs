//! Marks of a published event: its relation to the stored events, as its `ce_…` headers give it.

use butlr_event::event_id::{self, EventId};

/// Reason why an event is not new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DuplicateKind {
    /// The same event, delivered again: its id and its reading are stored.
    Redelivery,
    /// Another event with the current value of its (type, space, timestamp).
    Repeat,
}

impl DuplicateKind {
    /// Both kinds.
    pub const ALL: [DuplicateKind; 2] = [DuplicateKind::Redelivery, DuplicateKind::Repeat];

    /// Name in responses, in the metric's label and in `ce_duplicate`.
    pub const fn as_str(self) -> &'static str {
        match self {
            DuplicateKind::Redelivery => "redelivery",
            DuplicateKind::Repeat => "repeat",
        }
    }
}

/// Marks of an event with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Kind of duplicate, if the event is one and is published anyway.
    pub duplicate: Option<DuplicateKind>,
    /// The revision, if the event replaces the current value.
    pub revision: Option<Revision>,
    /// `true` if the event was computed before the current value.
    pub stale: bool,
    /// `true` if the event is older than the newest stored event of its source.
    pub out_of_order: bool,
    /// Hash of the event's reading, if another event is stored under its id. It distinguishes the
    /// two.
    pub conflict: Option<u64>,
}

impl Marks {
    /// Returns `true` if the event has no marks.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Id under which an event with the id `id` is published, if its own id is taken:
    /// `<id>~<8 hex digits>`.
    pub fn conflict_id(&self, id: &str) -> Option<String> {
        let reading = self.conflict?;
        Some(event_id::conflict_id(id, reading))
    }
}

/// Marks of an event without their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkSet {
    /// See [`Marks::duplicate`].
    pub duplicate: Option<DuplicateKind>,
    /// See [`Marks::revision`].
    pub revision: bool,
    /// See [`Marks::stale`].
    pub stale: bool,
    /// See [`Marks::out_of_order`].
    pub out_of_order: bool,
    /// See [`Marks::conflict`].
    pub conflict: bool,
    /// `true` if the event was published before the dedup window was rebuilt.
    pub unchecked: bool,
}

impl From<&Marks> for MarkSet {
    fn from(marks: &Marks) -> Self {
        Self {
            duplicate: marks.duplicate,
            revision: marks.revision.is_some(),
            stale: marks.stale,
            out_of_order: marks.out_of_order,
            conflict: marks.conflict.is_some(),
            unchecked: false,
        }
    }
}

/// Revision of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Number within the (type, space, timestamp), from 1.
    pub number: u32,
    /// Id of the event that it replaces.
    pub supersedes: EventId,
}
