//! Ledgers that a bridge reports in its log, `/status` and `/metrics`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{find_final_counters, parse_samples};

/// Names of the outcomes in the last log line and in `events_total`.
const OUTCOMES: [&str; 5] = [
    "published",
    "duplicate",
    "spooled",
    "quarantined",
    "refused",
];

/// Ledgers of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportedLedger {
    pub received: u64,
    /// In the order of [`OUTCOMES`]; `None` if not reported.
    pub outcomes: [Option<u64>; OUTCOMES.len()],
    /// `None` without a spool.
    pub spool: Option<ReportedSpoolLedger>,
}

/// Ends of all entries that a spool held during a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportedSpoolLedger {
    pub recovered: u64,
    pub spooled: u64,
    pub drained: u64,
    pub confirmed_late: u64,
    pub already_stored: u64,
    pub set_aside: u64,
    pub present: u64,
}

impl ReportedLedger {
    /// Parses the last line of a JSON log.
    pub fn from_log(output: &str) -> Option<Self> {
        let last = find_final_counters(output)?;
        let ledger = ["spool", "spool_ledger"].map(|name| &last[name]);
        let nested = ledger.into_iter().find_map(ReportedSpoolLedger::from_json);
        Some(Self {
            received: last["received"].as_u64()?,
            outcomes: OUTCOMES.map(|name| last[name].as_u64()),
            spool: nested.or_else(|| ReportedSpoolLedger::from_flat_json(&last)),
        })
    }

    /// Parses `/status`.
    pub fn from_status(status: &Value) -> Option<Self> {
        let ledger = &status["ledger"];
        Some(Self {
            received: ledger["received"].as_u64()?,
            outcomes: OUTCOMES.map(|name| ledger[name].as_u64()),
            spool: ReportedSpoolLedger::from_json(&status["spool"]["ledger"]),
        })
    }

    /// Describes an imbalance.
    pub fn find_imbalance(&self) -> Option<String> {
        let outcomes: u64 = self.outcomes.iter().flatten().sum();
        if self.received != outcomes {
            let received = self.received;
            return Some(format!("{received} received, {outcomes} over all outcomes"));
        }
        self.spool
            .as_ref()
            .and_then(ReportedSpoolLedger::find_imbalance)
    }
}

impl ReportedSpoolLedger {
    const NAMES: [&str; 7] = [
        "recovered",
        "spooled",
        "drained",
        "confirmed_late",
        "already_stored",
        "set_aside",
        "present",
    ];

    fn from_json(ledger: &Value) -> Option<Self> {
        Self::from_fields(|name| ledger[name].as_u64())
    }

    fn from_flat_json(line: &Value) -> Option<Self> {
        Self::from_fields(|name| line[format!("spool_{name}")].as_u64())
    }

    fn from_fields(field: impl Fn(&str) -> Option<u64>) -> Option<Self> {
        let [
            recovered,
            spooled,
            drained,
            confirmed_late,
            already_stored,
            set_aside,
            present,
        ] = Self::NAMES.map(&field);
        Some(Self {
            recovered: recovered?,
            spooled: spooled?,
            drained: drained?,
            confirmed_late: confirmed_late?,
            already_stored: already_stored?,
            set_aside: set_aside?,
            present: present?,
        })
    }

    fn find_imbalance(&self) -> Option<String> {
        let entered = self.recovered + self.spooled;
        let accounted_for = self.drained
            + self.confirmed_late
            + self.already_stored
            + self.set_aside
            + self.present;
        (entered != accounted_for).then(|| {
            format!("the spool: {entered} entries, but the ends of {accounted_for}: {self:?}")
        })
    }
}

/// Describes what is still in flight according to `/status`.
pub fn describe_in_flight(status: &Value) -> Option<String> {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let events = count(&status["ledger"]["in_flight"]);
    let types = status["types"].as_array().into_iter().flatten();
    let records: u64 = types.map(|of_type| count(&of_type["in_flight"])).sum();
    let spooled = count(&status["spool"]["present"]);
    (events + records + spooled > 0).then(|| {
        format!("{events} events under way, {records} records at librdkafka, {spooled} spooled")
    })
}

/// Samples of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct MetricSamples(BTreeMap<String, f64>);

impl MetricSamples {
    pub fn parse(exposition: &str) -> Self {
        let samples = parse_samples(exposition);
        Self(
            samples
                .map(|(series, value)| (series.to_owned(), value))
                .collect(),
        )
    }

    /// Describes an imbalance, by type, between received events and outcomes.
    pub fn find_imbalance(&self) -> Option<String> {
        let mut types: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for (series, value) in &self.0 {
            let of_type = series
                .split_once("type=\"")
                .and_then(|(_, t)| t.split('"').next());
            let entry = types.entry(of_type.unwrap_or_default()).or_default();
            if series.starts_with("butlr_bridge_received_total{") {
                entry.0 += value;
            } else if series.starts_with("butlr_bridge_events_total{") {
                entry.1 += value;
            }
        }
        let mut wrong = types
            .iter()
            .filter(|(_, (received, ended))| received != ended);
        wrong.next().map(|(of_type, (received, ended))| {
            format!("{of_type}: {received} received, {ended} over all outcomes")
        })
    }
}
