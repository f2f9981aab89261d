//! What a published event is to the events already stored: the content of its `ce_…` marks.

use butlr_event::event_id::{self, EventId};

/// Why an event is not new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DuplicateKind {
    /// The same event, delivered again: its id and its reading are stored.
    Redelivery,
    /// Another event with the value that is current for its (type, space, timestamp).
    Repeat,
}

impl DuplicateKind {
    /// Both.
    pub const ALL: [DuplicateKind; 2] = [DuplicateKind::Redelivery, DuplicateKind::Repeat];

    /// As answers, the metric's label and `ce_duplicate` name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            DuplicateKind::Redelivery => "redelivery",
            DuplicateKind::Repeat => "repeat",
        }
    }
}

/// What an event to be published is to what is stored; what its headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It is a duplicate that is published all the same.
    pub duplicate: Option<DuplicateKind>,
    /// It replaces the current value.
    pub revision: Option<Revision>,
    /// It is an earlier computation than the current value.
    pub stale: bool,
    /// It is older than the newest stored event of its source.
    pub out_of_order: bool,
    /// Another event is stored under its id; this is the hash of its reading, by which it is told apart.
    pub conflict: Option<u64>,
}

impl Marks {
    /// Whether there is nothing to say.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The id under which an event with the id `id` is published, where that is another: `<id>~<8 hex digits>`.
    pub fn conflict_id(&self, id: &str) -> Option<String> {
        let reading = self.conflict?;
        Some(event_id::conflict_id(id, reading))
    }
}

/// Which marks an event has, without what they say.
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
    /// What is stored was not known yet when it was published.
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

/// A value that replaces another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// 1 for the first revision of a (type, space, timestamp), and so on.
    pub number: u32,
    /// The id of the event that it replaces.
    pub supersedes: EventId,
}
