//! The names of environment variables that are nearly the bridge's.

use super::keys::KEYS;
use super::suggestion::find_nearest;

/// What every variable of the bridge's starts with.
pub(super) const PREFIX: &str = "BUTLR_BRIDGE__";
/// The same with the underscore that people write.
pub(super) const NEAR_PREFIX: &str = "BUTLR_BRIDGE_";
/// Variables that the bridge's own tests read.
const TEST_PREFIX: &str = "BUTLR_BRIDGE_TEST_";

/// What is wrong with the name of a variable that does not start with [`PREFIX`], if it should have.
pub(super) fn describe_misspelling(name: &str) -> Option<String> {
    let rest = name.strip_prefix(NEAR_PREFIX)?;
    let meant = !name.starts_with(TEST_PREFIX) && !is_service_link(name);
    meant.then(|| suggest_variable(rest))
}

fn suggest_variable(rest: &str) -> String {
    let single = |key: &str| key.replace('.', "_").to_ascii_uppercase();
    // Arrays and tables of the user's own names are given whole.
    let whole = |key: &'static str| {
        key.split(['*', '['])
            .next()
            .unwrap_or(key)
            .trim_end_matches('.')
    };
    let written = rest.replace("__", "_").to_ascii_uppercase();
    let known: Vec<(String, &str)> = KEYS
        .iter()
        .map(|known| whole(known.key))
        .map(|key| (single(key), key))
        .collect();
    let near = find_nearest(&written, known.iter().map(|(name, _)| name.as_str()));
    match known.iter().find(|(name, _)| Some(name.as_str()) == near) {
        Some((_, key)) => {
            let name = key.replace('.', "__").to_ascii_uppercase();
            format!("two underscores part the levels of a key; did you mean {PREFIX}{name}?")
        }
        None => format!("two underscores part the levels of a key, as in {PREFIX}HTTP__BIND"),
    }
}

/// Kubernetes sets such variables in every container for each Service of the namespace; one named `butlr-bridge`, or
/// `butlr-bridge-admin`, would otherwise keep the bridge from starting.
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
    fn kubernetes_service_links_are_no_mistakes() {
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
