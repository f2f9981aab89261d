//! What an answer says.

use serde::Deserialize;

use crate::journal::RecordedOutcome;

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerResponse {
    /// The HTTP status.
    pub status: u16,
    /// What a 2xx says became of the event.
    pub outcome: Option<ReportedOutcome>,
    /// Partition and offset, where it tells both.
    pub position: Option<(i32, i64)>,
}

impl ServerResponse {
    /// Whether the sender takes it for a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What it means for the proof. One without a word comes from something else than the bridge.
    pub(super) fn journal_answer(&self) -> RecordedOutcome {
        match (self.outcome, self.status) {
            (Some(ReportedOutcome::Published), _) | (None, 200 | 201 | 203..300) => {
                RecordedOutcome::Published
            }
            (Some(ReportedOutcome::Spooled), _) | (None, 202) => RecordedOutcome::Spooled,
            (Some(ReportedOutcome::Redelivery), _) => RecordedOutcome::Redelivery,
            (Some(ReportedOutcome::Repeat), _) => RecordedOutcome::Repeat,
            (Some(ReportedOutcome::Quarantined), _) => RecordedOutcome::Quarantined,
            // Too slow, too early, too much, hung up: said before the event was looked at, or by somebody in between.
            (None, 408 | 425 | 429 | 499) => RecordedOutcome::Unknown,
            (None, 400..500) => RecordedOutcome::Refused,
            (None, _) => RecordedOutcome::Unknown,
        }
    }

    /// Whether status and word are not those of one outcome.
    pub(super) fn is_contradictory(&self) -> bool {
        match self.outcome {
            None => false,
            Some(ReportedOutcome::Published) => self.status != 200,
            Some(ReportedOutcome::Spooled | ReportedOutcome::Quarantined) => self.status != 202,
            Some(ReportedOutcome::Redelivery | ReportedOutcome::Repeat) => {
                !matches!(self.status, 200 | 202)
            }
        }
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedOutcome {
    /// Kafka has it.
    Published,
    /// The bridge has it on disk.
    Spooled,
    /// The same event was there already.
    Redelivery,
    /// The same reading with the same value was there already.
    Repeat,
    /// It is no valid event, and kept elsewhere.
    Quarantined,
}

impl ReportedOutcome {
    /// Every word, in the order of the ledger.
    pub const ALL: [ReportedOutcome; 5] = [
        ReportedOutcome::Published,
        ReportedOutcome::Spooled,
        ReportedOutcome::Redelivery,
        ReportedOutcome::Repeat,
        ReportedOutcome::Quarantined,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            ReportedOutcome::Published => "published",
            ReportedOutcome::Spooled => "spooled",
            ReportedOutcome::Redelivery => "redelivery",
            ReportedOutcome::Repeat => "repeat",
            ReportedOutcome::Quarantined => "quarantined",
        }
    }
}

/// Reads an answer. `places`: whether partition and offset are wanted, which costs a look at the whole body.
pub(super) fn parse_response(status: u16, body: &[u8], wants_position: bool) -> ServerResponse {
    let mut response = ServerResponse {
        status,
        outcome: None,
        position: None,
    };
    if !response.is_success() {
        return response;
    }
    if !wants_position && body.starts_with(br#"{"status":"published""#) {
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
    fn the_words_of_the_contract() {
        for (body, word, at) in [
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
            let answered = parse_response(200, body.as_bytes(), true);
            assert_eq!((answered.outcome, answered.position), (word, at), "{body}");
            assert_eq!(
                parse_response(202, body.as_bytes(), false).outcome,
                word,
                "{body}"
            );
            assert_eq!(parse_response(503, body.as_bytes(), true).outcome, None);
        }
    }

    #[test]
    fn a_word_has_its_status() {
        let contradictory = |status, word| {
            let answered = ServerResponse {
                status,
                outcome: word,
                position: None,
            };
            answered.is_contradictory()
        };
        for (word, at_200, at_202) in [
            (ReportedOutcome::Published, false, true),
            (ReportedOutcome::Spooled, true, false),
            (ReportedOutcome::Quarantined, true, false),
            (ReportedOutcome::Redelivery, false, false),
            (ReportedOutcome::Repeat, false, false),
        ] {
            assert_eq!(contradictory(200, Some(word)), at_200, "{word:?}");
            assert_eq!(contradictory(202, Some(word)), at_202, "{word:?}");
            assert!(contradictory(207, Some(word)), "{word:?}");
        }
        assert!(!contradictory(204, None));
    }

    #[test]
    fn only_a_final_4xx_is_a_refusal() {
        let meaning = |status, word| {
            let at = None;
            ServerResponse {
                status,
                outcome: word,
                position: at,
            }
            .journal_answer()
        };
        for status in [400, 401, 413, 422] {
            assert_eq!(meaning(status, None), RecordedOutcome::Refused, "{status}");
        }
        for status in [408, 425, 429, 499, 500, 503] {
            assert_eq!(meaning(status, None), RecordedOutcome::Unknown, "{status}");
        }
        let quarantined = meaning(202, Some(ReportedOutcome::Quarantined));
        assert_eq!(quarantined, RecordedOutcome::Quarantined);
        assert_eq!(meaning(202, None), RecordedOutcome::Spooled);
    }
}
