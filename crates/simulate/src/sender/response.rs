//! Parsing of response bodies.

use serde::Deserialize;

use crate::outcome::{ReportedOutcome, ServerResponse};

/// Detail to read from a response body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseDetail {
    /// The outcome only, which usually needs no JSON parser.
    Outcome,
    /// Also partition and offset, which takes parsing the whole body.
    Position,
}

/// Parses a response. The body counts only in a 2xx.
pub(super) fn parse_response(status: u16, body: &[u8], detail: ResponseDetail) -> ServerResponse {
    let mut response = ServerResponse {
        status,
        outcome: None,
        position: None,
    };
    if !response.is_success() {
        return response;
    }
    if detail == ResponseDetail::Outcome && body.starts_with(br#"{"status":"published""#) {
        response.outcome = Some(ReportedOutcome::Published);
        return response;
    }
    if let Ok(body_fields) = serde_json::from_slice::<ResponseBody>(body) {
        response.outcome = match (body_fields.status, body_fields.kind) {
            ("published", _) => Some(ReportedOutcome::Published),
            ("spooled", _) => Some(ReportedOutcome::Spooled),
            ("duplicate", Some("redelivery")) => Some(ReportedOutcome::Redelivery),
            ("duplicate", Some("repeat")) => Some(ReportedOutcome::Repeat),
            ("quarantined", _) => Some(ReportedOutcome::Quarantined),
            _ => None,
        };
        response.position = body_fields.partition.zip(body_fields.offset);
    }
    response
}

#[derive(Deserialize)]
struct ResponseBody<'a> {
    status: &'a str,
    kind: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_the_contract() {
        for (body, outcome, position) in [
            (
                r#"{"status":"published","id":"a","topic":"t","partition":3,"offset":7}"#,
                Some(ReportedOutcome::Published),
                Some((3, 7)),
            ),
            (
                r#"{"status":"published","id":"a","topic":"t","partition":3,"offset":null}"#,
                Some(ReportedOutcome::Published),
                None,
            ),
            (
                r#"{"status":"duplicate","kind":"repeat","id":"a"}"#,
                Some(ReportedOutcome::Repeat),
                None,
            ),
            (
                r#"{ "kind":"redelivery", "status":"duplicate" }"#,
                Some(ReportedOutcome::Redelivery),
                None,
            ),
            (
                r#"{"status":"spooled","id":"a"}"#,
                Some(ReportedOutcome::Spooled),
                None,
            ),
            (
                r#"{"status":"quarantined","id":null,"code":"x"}"#,
                Some(ReportedOutcome::Quarantined),
                None,
            ),
            (r#"{"status":"else"}"#, None, None),
            ("", None, None),
            ("<html>", None, None),
        ] {
            let parse = |status, detail| parse_response(status, body.as_bytes(), detail);
            let response = parse(200, ResponseDetail::Position);
            let parsed = (response.outcome, response.position);
            assert_eq!(parsed, (outcome, position), "{body}");
            assert_eq!(
                parse(202, ResponseDetail::Outcome).outcome,
                outcome,
                "{body}"
            );
            assert_eq!(parse(503, ResponseDetail::Position).outcome, None);
        }
    }
}
