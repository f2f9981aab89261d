//! Environment variables whose names are almost those of the bridge.

use super::keys::KEYS;
use super::suggestion::find_nearest;

/// Prefix of the bridge's variables.
pub(super) const PREFIX: &str = "BUTLR_BRIDGE__";
/// The prefix with a single underscore, which users write by mistake.
pub(super) const NEAR_PREFIX: &str = "BUTLR_BRIDGE_";
/// Prefix of the variables that the bridge's own tests read.
const TEST_PREFIX: &str = "BUTLR_BRIDGE_TEST_";

/// Returns the problem of a variable that lacks [`PREFIX`] but was meant for the bridge.
pub(super) fn describe_misspelling(name: &str) -> Option<String> {
    let rest = name.strip_prefix(NEAR_PREFIX)?;
    let is_misspelled = !name.starts_with(TEST_PREFIX) && !is_service_link(name);
    is_misspelled.then(|| suggest_variable(rest))
}

fn suggest_variable(rest: &str) -> String {
    // Arrays, and tables whose names the user chooses, are given as a whole.
    let settable_key = |key: &'static str| {
        key.split(['*', '['])
            .next()
            .unwrap_or(key)
            .trim_end_matches('.')
    };
    let written = rest.replace("__", "_").to_ascii_uppercase();
    let known: Vec<(String, &str)> = KEYS
        .iter()
        .map(|known| settable_key(known.key))
        .map(|key| (key.replace('.', "_").to_ascii_uppercase(), key))
        .collect();
    let near = find_nearest(&written, known.iter().map(|(name, _)| name.as_str()));
    match known.iter().find(|(name, _)| Some(name.as_str()) == near) {
        Some((_, key)) => {
            let name = key.replace('.', "__").to_ascii_uppercase();
            format!("separate the levels of a key by two underscores; did you mean {PREFIX}{name}?")
        }
        None => {
            format!("separate the levels of a key by two underscores, as in {PREFIX}HTTP__BIND")
        }
    }
}

/// Returns `true` for the variables that Kubernetes sets in every container for each Service of the
/// namespace. Otherwise a Service named `butlr-bridge` would keep the bridge from starting.
fn is_service_link(name: &str) -> bool {
    let protocol = |rest: &str| {
        let mut parts = rest.split('_');
        parts
            .next()
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name
            .rsplit_once("_PORT_")
            .is_some_and(|(_, rest)| protocol(rest))
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, rest)| protocol(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_service_links_are_accepted() {
        for link in [
            "BUTLR_BRIDGE_SERVICE_HOST",
            "BUTLR_BRIDGE_SERVICE_PORT",
            "BUTLR_BRIDGE_SERVICE_PORT_INGEST",
            "BUTLR_BRIDGE_PORT",
            "BUTLR_BRIDGE_PORT_8080_TCP",
            "BUTLR_BRIDGE_PORT_8080_TCP_ADDR",
            "BUTLR_BRIDGE_PORT_8080_TCP_PORT",
            "BUTLR_BRIDGE_ADMIN_PORT_9464_TCP_PROTO",
        ] {
            assert!(is_service_link(link), "{link}");
        }
        for name in [
            "BUTLR_BRIDGE_HTTP_BIND",
            "BUTLR_BRIDGE_PORT_X",
            "BUTLR_BRIDGE_PORTS",
        ] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}
