//! What an answer says.

use serde::Deserialize;

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
}

impl Word {
    /// Every word, in the order of the ledger.
    pub const ALL: [Word; 4] = [
        Word::Published,
        Word::Spooled,
        Word::Redelivery,
        Word::Repeat,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Word::Published => "published",
            Word::Spooled => "spooled",
            Word::Redelivery => "redelivery",
            Word::Repeat => "repeat",
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
}
