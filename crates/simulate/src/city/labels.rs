//! Ids and hardware properties of assets: hashes of their kind and their position in the plan.

use super::chance::{self, ChanceTopic};
use butlr_event::ksuid::Ksuid;

/// Ids carry the time of installation, within two years from the start of 2023.
const INSTALLED_FROM_MS: i64 = 1_672_531_200_000;
const INSTALLED_WITHIN_MS: u64 = 2 * 365 * 86_400_000;

/// Share of the assets that have a custom id.
const CUSTOM_ID_SHARE: f64 = 0.8;

/// Kind of an asset.
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

/// Source of ids for the assets of a city.
pub struct AssetLabels {
    seed: u64,
}

impl AssetLabels {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A KSUID with a prefix.
    pub fn id(&self, prefix: &str, kind: AssetKind, number: u64) -> String {
        let dice = chance::hash(self.seed, ChanceTopic::Ids, [kind as u64, number, 1]);
        let installed_ms =
            INSTALLED_FROM_MS + chance::number_below(dice, INSTALLED_WITHIN_MS) as i64;
        let payload = chance::payload(self.seed, ChanceTopic::Ids, [kind as u64, number, 0]);
        format!("{prefix}{}", Ksuid::new(installed_ms, payload))
    }

    /// The customer's own id, which most assets have.
    pub fn custom_id(&self, kind: AssetKind, number: u64, code: String) -> Option<String> {
        let dice = chance::hash(self.seed, ChanceTopic::CustomId, [kind as u64, number, 0]);
        chance::happens(dice, CUSTOM_ID_SHARE).then_some(code)
    }

    /// Bits from which serial numbers and models are made.
    pub fn hardware(&self, kind: AssetKind, number: u64) -> u64 {
        chance::hash(self.seed, ChanceTopic::Hardware, [kind as u64, number, 0])
    }
}
