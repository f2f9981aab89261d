//! What an answer says.

use serde::Deserialize;

use crate::journal::Answer;

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// What a 2xx says became of the event.
    pub word: Option<Word>,
    /// Partition and offset, where it tells both.
    pub at: Option<(i32, i64)>,
}

impl Answered {
    /// Whether the sender takes it for a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What it means for the proof. One without a word comes from something else than the bridge.
    pub(super) fn meaning(&self) -> Answer {
        match (self.word, self.status) {
            (Some(Word::Published), _) | (None, 200 | 201 | 203..300) => Answer::Published,
            (Some(Word::Spooled), _) | (None, 202) => Answer::Spooled,
            (Some(Word::Redelivery), _) => Answer::Redelivery,
            (Some(Word::Repeat), _) => Answer::Repeat,
            (Some(Word::Quarantined), _) => Answer::Quarantined,
            // Too slow, too early, too much, hung up: said before the event was looked at, or by somebody in between.
            (None, 408 | 425 | 429 | 499) => Answer::Unknown,
            (None, 400..500) => Answer::Refused,
            (None, _) => Answer::Unknown,
        }
    }

    /// Whether status and word are not those of one outcome.
    pub(super) fn is_contradictory(&self) -> bool {
        match self.word {
            None => false,
            Some(Word::Published) => self.status != 200,
            Some(Word::Spooled | Word::Quarantined) => self.status != 202,
            Some(Word::Redelivery | Word::Repeat) => !matches!(self.status, 200 | 202),
        }
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
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

impl Word {
    /// Every word, in the order of the ledger.
    pub const ALL: [Word; 5] = [
        Word::Published,
        Word::Spooled,
        Word::Redelivery,
        Word::Repeat,
        Word::Quarantined,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Word::Published => "published",
            Word::Spooled => "spooled",
            Word::Redelivery => "redelivery",
            Word::Repeat => "repeat",
            Word::Quarantined => "quarantined",
        }
    }
}

/// Reads an answer. `places`: whether partition and offset are wanted, which costs a look at the whole body.
pub(super) fn read(status: u16, body: &[u8], places: bool) -> Answered {
    let mut answered = Answered {
        status,
        word: None,
        at: None,
    };
    if !answered.is_success() {
        return answered;
    }
    if !places && body.starts_with(br#"{"status":"published""#) {
        answered.word = Some(Word::Published);
        return answered;
    }
    if let Ok(told) = serde_json::from_slice::<Told>(body) {
        answered.word = match (told.status, told.kind) {
            ("published", _) => Some(Word::Published),
            ("spooled", _) => Some(Word::Spooled),
            ("duplicate", Some("redelivery")) => Some(Word::Redelivery),
            ("duplicate", Some("repeat")) => Some(Word::Repeat),
            ("quarantined", _) => Some(Word::Quarantined),
            _ => None,
        };
        answered.at = told.partition.zip(told.offset);
    }
    answered
}

#[derive(Deserialize)]
struct Told<'a> {
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
                Some(Word::Published),
                Some((3, 7)),
            ),
            (
                r#"{"status":"published","id":"a","topic":"t","partition":3,"offset":null}"#,
                Some(Word::Published),
                None,
            ),
            (
                r#"{"status":"duplicate","kind":"repeat","id":"a"}"#,
                Some(Word::Repeat),
                None,
            ),
            (
                r#"{ "kind":"redelivery", "status":"duplicate" }"#,
                Some(Word::Redelivery),
                None,
            ),
            (
                r#"{"status":"spooled","id":"a"}"#,
                Some(Word::Spooled),
                None,
            ),
            (
                r#"{"status":"quarantined","id":null,"code":"x"}"#,
                Some(Word::Quarantined),
                None,
            ),
            (r#"{"status":"else"}"#, None, None),
            ("", None, None),
            ("<html>", None, None),
        ] {
            let answered = read(200, body.as_bytes(), true);
            assert_eq!((answered.word, answered.at), (word, at), "{body}");
            assert_eq!(read(202, body.as_bytes(), false).word, word, "{body}");
            assert_eq!(read(503, body.as_bytes(), true).word, None);
        }
    }

    #[test]
    fn a_word_has_its_status() {
        let contradictory = |status, word| {
            let answered = Answered {
                status,
                word,
                at: None,
            };
            answered.is_contradictory()
        };
        for (word, at_200, at_202) in [
            (Word::Published, false, true),
            (Word::Spooled, true, false),
            (Word::Quarantined, true, false),
            (Word::Redelivery, false, false),
            (Word::Repeat, false, false),
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
            Answered { status, word, at }.meaning()
        };
        for status in [400, 401, 413, 422] {
            assert_eq!(meaning(status, None), Answer::Refused, "{status}");
        }
        for status in [408, 425, 429, 499, 500, 503] {
            assert_eq!(meaning(status, None), Answer::Unknown, "{status}");
        }
        let quarantined = meaning(202, Some(Word::Quarantined));
        assert_eq!(quarantined, Answer::Quarantined);
        assert_eq!(meaning(202, None), Answer::Spooled);
    }
}
