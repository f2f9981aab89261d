//! The city's invariants, watched over simulated days.

mod plans;
mod sensing;
mod stories;
mod witness;

use std::sync::Arc;

use super::{Habits, Life, Plan, Size, TypeSet};
use crate::message::Message;
use butlr_event::EventType;

/// A Monday, and not at a full second: the first tick is a short one.
const START_MS: i64 = 1_790_000_040_250;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn plan(seed: u64, rooms: usize, sensors: Option<usize>) -> Arc<Plan> {
    Arc::new(Plan::grow(seed, Size { rooms, sensors }))
}

fn only(types: &[EventType]) -> TypeSet {
    EventType::ALL.map(|event_type| types.contains(&event_type))
}

fn telling(types: TypeSet) -> Habits {
    Habits {
        types,
        ..Habits::default()
    }
}

fn without_detections() -> TypeSet {
    EventType::ALL.map(|event_type| event_type != EventType::Detections)
}

/// All messages of a city's first minutes.
fn story(
    plan: &Arc<Plan>,
    seed: u64,
    start_ms: i64,
    habits: &Habits,
    minutes: i64,
) -> Vec<Message> {
    let mut life = Life::begin(plan.clone(), seed, start_ms, habits.clone());
    let mut messages = Vec::new();
    while life.now_ms() < start_ms + minutes * MINUTE_MS {
        life.advance(&mut messages);
    }
    messages
}
