//! The city's invariants, checked over simulated days.

mod plans;
mod reference_model;
mod sensing;
mod stories;

use std::sync::Arc;

use super::{CityBehaviour, CityPlan, CitySimulation, CitySize, TypeSet};
use crate::message::CityMessage;
use butlr_event::EventType;

/// A Monday, not at a full second, so that the first tick is short.
const START_MS: i64 = 1_790_000_040_250;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn plan(seed: u64, rooms: usize, sensors: Option<usize>) -> Arc<CityPlan> {
    Arc::new(CityPlan::generate(seed, CitySize { rooms, sensors }))
}

fn types_of(types: &[EventType]) -> TypeSet {
    EventType::ALL.map(|event_type| types.contains(&event_type))
}

fn behaviour_with(types: TypeSet) -> CityBehaviour {
    CityBehaviour {
        types,
        ..CityBehaviour::default()
    }
}

fn without_detections() -> TypeSet {
    EventType::ALL.map(|event_type| event_type != EventType::Detections)
}

/// All messages of the first minutes of a city.
fn compute_messages(
    plan: &Arc<CityPlan>,
    seed: u64,
    start_ms: i64,
    behaviour: &CityBehaviour,
    minutes: i64,
) -> Vec<CityMessage> {
    let mut city = CitySimulation::new(plan.clone(), seed, start_ms, behaviour.clone());
    let mut messages = Vec::new();
    while city.now_ms() < start_ms + minutes * MINUTE_MS {
        city.advance(&mut messages);
    }
    messages
}
