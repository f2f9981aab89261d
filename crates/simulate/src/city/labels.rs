//! Ids and hardware of things: hashes of what a thing is and where in the plan it stands.

use super::chance::{self, ChanceTopic};
use butlr_event::ksuid::Ksuid;

/// Ids are from when things were installed: in the two years from 2023 on.
const INSTALLED_FROM_MS: i64 = 1_672_531_200_000;
const INSTALLED_WITHIN_MS: u64 = 2 * 365 * 86_400_000;

/// How likely a thing has a custom id.
const CUSTOM_ID_SHARE: f64 = 0.8;

/// What is labelled.
#[derive(Clone, Copy)]
pub enum AssetKind {
    Org,
    Site,
    Building,
    Floor,
    Room,
    Zone,
    Presence,
    RoomDoor,
    FloorDoor,
    Hive,
}

/// Labels the things of a city.
pub struct AssetLabels {
    seed: u64,
}

impl AssetLabels {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A KSUID with a prefix.
    pub fn id(&self, prefix: &str, thing: AssetKind, number: u64) -> String {
        let dice = chance::hash(self.seed, ChanceTopic::Ids, [thing as u64, number, 1]);
        let installed_ms =
            INSTALLED_FROM_MS + chance::number_below(dice, INSTALLED_WITHIN_MS) as i64;
        let payload = chance::payload(self.seed, ChanceTopic::Ids, [thing as u64, number, 0]);
        format!("{prefix}{}", Ksuid::new(installed_ms, payload))
    }

    /// The customer's own id: most things have one.
    pub fn custom_id(&self, thing: AssetKind, number: u64, code: String) -> Option<String> {
        let dice = chance::hash(self.seed, ChanceTopic::CustomId, [thing as u64, number, 0]);
        chance::happens(dice, CUSTOM_ID_SHARE).then_some(code)
    }

    /// Bits to make serial numbers and models from.
    pub fn hardware(&self, thing: AssetKind, number: u64) -> u64 {
        chance::hash(self.seed, ChanceTopic::Hardware, [thing as u64, number, 0])
    }
}
