//! The rules: what an event is to what is stored.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::shard::{Id, Shard, in_shard_of};
use super::{Locked, Memory, Moment};
use crate::config::DuplicateHandling;
use crate::dedup::claim::{Current, Turn};
use crate::dedup::window::Tick;
use crate::dedup::{Facts, Verdict};
use crate::marks::{Duplicate, Marks, Revision};
use butlr_event::event_id::EventId;

/// What an event is.
pub(super) enum Judged {
    /// Not known yet.
    Wait(Turn),
    Is(Is),
}

/// What an event is, and what its claim has to take.
pub(super) struct Is {
    /// The key of its id, or in a conflict the derived one.
    pub key: u64,
    /// Its (type, space, timestamp), where that matters.
    pub cell: Option<u64>,
    pub verdict: Verdict,
    /// If it becomes the current value: as what revision.
    pub becomes: Option<u32>,
    /// What it is a duplicate of is not in Kafka yet.
    pub spooled: bool,
}

/// What is known of an event's id and reading.
enum LookedUp {
    Wait(Turn),
    Known {
        key: u64,
        conflict: bool,
        spooled: bool,
    },
    New {
        key: u64,
        conflict: bool,
    },
}

/// What an event is to what is stored, before it is asked how such are handled.
enum Standing {
    New,
    Duplicate(Duplicate),
    Revision(Revision),
    Stale,
}

impl Memory {
    /// Judges an event; `id` is given for occupancy. `redelivery`: how such are handled.
    pub(super) fn judge(
        &self,
        facts: &Facts<'_>,
        id: Option<&EventId>,
        redelivery: DuplicateHandling,
        locked: &mut Locked<'_>,
        now: Moment,
    ) -> Judged {
        let (key, conflict) = match look_up(&mut locked.ids, facts, now.ids_from) {
            LookedUp::Wait(turn) => return Judged::Wait(turn),
            LookedUp::New { key, conflict } => (key, conflict),
            LookedUp::Known {
                key,
                conflict,
                spooled,
            } => {
                let standing = Standing::Duplicate(Duplicate::Redelivery);
                return Judged::Is(Is {
                    key,
                    cell: None,
                    verdict: self.verdict(standing, redelivery, conflict, facts),
                    becomes: None,
                    spooled,
                });
            }
        };
        let (Some(cell), Some(id), Some(values)) = (facts.cell, id, &mut locked.values) else {
            return Judged::Is(Is {
                key,
                cell: None,
                verdict: self.verdict(Standing::New, redelivery, conflict, facts),
                becomes: None,
                spooled: false,
            });
        };
        if let Some(turn) = values.undecided.turn(cell) {
            return Judged::Wait(turn);
        }
        let value = values.stored.get(cell, now.values_from);
        let spooled = value.is_some_and(|value| {
            value.stored_at.is_spooled() && value.current.reading == facts.reading
        });
        let current = value.map(|value| &value.current);
        let standing = compare(current, facts.reading, id, conflict);
        let verdict = self.verdict(standing, redelivery, conflict, facts);
        let becomes = match &verdict {
            Verdict::Publish(marks) => becomes(marks, current, facts.reading, id),
            Verdict::Duplicate(_) => None,
        };
        Judged::Is(Is {
            key,
            cell: Some(cell),
            verdict,
            becomes,
            spooled,
        })
    }

    fn verdict(
        &self,
        standing: Standing,
        redelivery: DuplicateHandling,
        conflict: bool,
        facts: &Facts<'_>,
    ) -> Verdict {
        let mut marks = Marks {
            conflict: conflict.then_some(facts.reading),
            ..Marks::default()
        };
        match standing {
            Standing::New => {
                let sources = self.sources.of(facts.source);
                let newest = sources.get(facts.source, 0);
                marks.out_of_order = newest.is_some_and(|s| s.newest_ms > facts.timestamp_ms);
            }
            Standing::Duplicate(kind) => {
                let handling = match kind {
                    Duplicate::Redelivery => redelivery,
                    Duplicate::Repeat => self.repeat,
                };
                match handling {
                    DuplicateHandling::Drop => return Verdict::Duplicate(kind),
                    DuplicateHandling::Tag => marks.duplicate = Some(kind),
                    DuplicateHandling::Off => {}
                }
            }
            Standing::Revision(revision) => marks.revision = Some(revision),
            Standing::Stale => marks.stale = true,
        }
        Verdict::Publish(marks)
    }
}

fn look_up(ids: &mut Shard<Id>, facts: &Facts<'_>, from: Tick) -> LookedUp {
    let mut key = facts.id_key;
    for conflict in [false, true] {
        if let Some(turn) = ids.undecided.turn(key) {
            return LookedUp::Wait(turn);
        }
        match ids.stored.get(key, from) {
            None => return LookedUp::New { key, conflict },
            Some(id) if id.reading() == facts.reading => {
                let spooled = id.stored_at.is_spooled();
                return LookedUp::Known {
                    key,
                    conflict,
                    spooled,
                };
            }
            Some(_) if conflict => break,
            Some(_) => key = key_of_conflict(key, facts.reading),
        }
    }
    // Another reading under the derived key as well: chance, once in 2⁵⁶. It goes on being a conflict.
    LookedUp::New {
        key,
        conflict: true,
    }
}

/// What takes the place of an id's key for an event that came under an id of which another reading is stored. Of the same
/// shard.
pub(in crate::dedup) fn key_of_conflict(id_key: u64, reading: u64) -> u64 {
    in_shard_of(id_key, xxh3_64_with_seed(&reading.to_le_bytes(), id_key))
}

fn compare(current: Option<&Current>, reading: u64, id: &EventId, conflict: bool) -> Standing {
    match current {
        None => Standing::New,
        // A repeat, but for its id; never dropped.
        Some(current) if current.reading == reading && conflict => Standing::New,
        Some(current) if current.reading == reading => Standing::Duplicate(Duplicate::Repeat),
        Some(current) if is_older(id, &current.id) => Standing::Stale,
        Some(current) => Standing::Revision(Revision {
            number: current.revision.saturating_add(1),
            supersedes: current.id.clone(),
        }),
    }
}

/// By the seconds of their ids; not, where these don't tell.
fn is_older(id: &EventId, than: &EventId) -> bool {
    matches!((id.seconds(), than.seconds()), (Some(one), Some(other)) if one < other)
}

/// As what revision an event published with `marks` becomes the current value, if it does.
pub(in crate::dedup) fn becomes(
    marks: &Marks,
    current: Option<&Current>,
    reading: u64,
    id: &EventId,
) -> Option<u32> {
    if marks.stale || marks.duplicate.is_some() {
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
