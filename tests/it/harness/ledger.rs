//! Comparison of the harness's own event count with the metrics of the bridge.

use std::collections::BTreeMap;

use serde_json::Value;

use super::HttpResponse;

/// Counts the events that the bridge received with a request, from the response.
pub fn count_events(response: &HttpResponse) -> u64 {
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return 0;
    };
    if let Some(results) = body["results"].as_array() {
        return results.len() as u64;
    }
    match body["code"].as_str().unwrap_or_default() {
        // Rejected before any event was read.
        "unauthorized"
        | "not_found"
        | "method_not_allowed"
        | "unsupported_media_type"
        | "unsupported_encoding"
        | "body_timeout"
        | "body_too_large"
        | "body_broken"
        | "too_many_connections"
        | "too_many_bytes_in_flight" => 0,
        // The response contains an id only if the event was read.
        "too_many_events_in_flight" => body["id"].is_string().into(),
        _ => 1,
    }
}

/// Parses a text exposition into `name{labels}` and value, in its order.
pub fn parse_samples(exposition: &str) -> impl Iterator<Item = (&str, f64)> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series, value.parse().ok()?))
    })
}

/// Sums all series of a metric that contain `label` (all series if it is empty).
pub fn sum_samples(exposition: &str, name: &str, label: &str) -> f64 {
    let of_metric = parse_samples(exposition).filter(|(series, _)| {
        let rest = series.strip_prefix(name);
        rest.is_some_and(|labels| labels.is_empty() || labels.starts_with('{'))
            && series.contains(label)
    });
    of_metric.map(|(_, value)| value).sum()
}

/// Returns the received events and the sum of all outcomes, by type.
pub fn totals_by_type(exposition: &str) -> BTreeMap<String, (u64, u64)> {
    let mut types: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (series, value) in parse_samples(exposition) {
        let Some((_, name)) = series.split_once("type=\"") else {
            continue;
        };
        let name = name.split('"').next().unwrap_or_default().to_owned();
        if series.starts_with("butlr_bridge_received_total{") {
            types.entry(name).or_default().0 += value as u64;
        } else if series.starts_with("butlr_bridge_events_total{") {
            types.entry(name).or_default().1 += value as u64;
        }
    }
    types
}

/// Describes an imbalance between received events, outcomes and `counted`, the harness's count from
/// the responses.
pub fn find_imbalance(exposition: &str, counted: u64) -> Option<String> {
    let types = totals_by_type(exposition);
    for (name, (received, outcomes)) in &types {
        if received != outcomes {
            return Some(format!(
                "{name}: {received} received, {outcomes} over all outcomes"
            ));
        }
    }
    if types.len() != 11 {
        return Some(format!(
            "series of eleven types (with unknown), not {}",
            types.len()
        ));
    }
    let received: u64 = types.values().map(|(received, _)| received).sum();
    (counted != received)
        .then(|| format!("{received} received by the bridge, {counted} counted by the harness"))
}

/// Describes an imbalance in the spool's ledger in `/status`: recovered + spooled must equal all
/// ends + present.
pub fn find_spool_imbalance(spool: &Value) -> Option<String> {
    let ledger = spool["ledger"].as_object()?;
    let field = |name: &str| ledger[name].as_u64().expect("a number");
    let entered = field("recovered") + field("spooled");
    let ends = [
        "drained",
        "confirmed_late",
        "already_stored",
        "set_aside",
        "lost",
        "present",
    ];
    let ended: u64 = ends.into_iter().map(field).sum();
    (entered != ended)
        .then(|| format!("{entered} entries entered the spool, {ended} are accounted for: {spool}"))
}
