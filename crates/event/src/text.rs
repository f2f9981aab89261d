//! Checks of the whole body, including the parts that the bridge does not know: it is Unicode text
//! and not nested too deep. Each check starts with a cheap one that accepts every good body.

use std::fmt;

use super::{UnreadableBody, UnreadableBodyCode};

/// Maximum nesting of objects and arrays in a body. The outermost one is level 1, so an array of
/// events is a level, too.
pub const MAX_DEPTH: usize = 64;

/// White space of JSON, which is less than that of Unicode.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Decodes the body as text in which every string is valid Unicode, also after its escapes are
/// resolved.
///
/// # Errors
/// The body is empty, is not UTF-8, starts with a byte order mark or has a lone surrogate.
pub(crate) fn decode_body(body: &[u8]) -> Result<&str, UnreadableBody> {
    let text = std::str::from_utf8(body).map_err(|error| not_utf8_error(body, error))?;
    if text.starts_with('\u{feff}') {
        return Err(UnreadableBody {
            code: UnreadableBodyCode::ByteOrderMark,
            detail: "The body starts with a byte order mark (EF BB BF), which JSON must not have: remove it."
                .to_owned(),
        });
    }
    if let Some(offset) = find_lone_surrogate(body) {
        return Err(UnreadableBody {
            code: UnreadableBodyCode::LoneSurrogate,
            detail: format!(
                "The escape at {} is one half of a surrogate pair without the other, so the string is not valid Unicode: \
                 send both halves, or U+FFFD for a lost character.",
                BodyPosition::new(body, offset)
            ),
        });
    }
    if trim(text).is_empty() {
        return Err(UnreadableBody {
            code: UnreadableBodyCode::NotJson,
            detail:
                "The body is empty: send one event as a JSON object, or a JSON array of events."
                    .to_owned(),
        });
    }
    Ok(text)
}

/// Removes surrounding white space of JSON.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(WHITE_SPACE)
}

/// Checks the nesting of `body`. Exact for valid JSON; in other text, stray brackets count, too.
///
/// # Errors
/// The body is nested deeper than [`MAX_DEPTH`].
pub(crate) fn check_depth(body: &str) -> Result<(), UnreadableBody> {
    if !can_exceed_depth(body, MAX_DEPTH) {
        return Ok(());
    }
    match find_excess_depth(body.as_bytes()) {
        None => Ok(()),
        Some(offset) => Err(UnreadableBody {
            code: UnreadableBodyCode::TooDeep,
            detail: format!(
                "The body nests objects and arrays more than {MAX_DEPTH} levels deep at {}: send a flatter structure.",
                BodyPosition::new(body.as_bytes(), offset)
            ),
        }),
    }
}

/// Returns `true` if `text` has more than `depth` opening brackets, including those in strings.
/// Otherwise it cannot be nested deeper.
pub(crate) fn can_exceed_depth(text: &str, depth: usize) -> bool {
    // '[' and '{' differ in one bit. The compiler makes vector instructions of byte sums over short
    // chunks.
    let opening = |chunk: &[u8]| {
        chunk
            .iter()
            .map(|byte| u8::from(byte | 0x20 == b'{'))
            .sum::<u8>()
    };
    text.as_bytes()
        .chunks(192)
        .map(|chunk| usize::from(opening(chunk)))
        .sum::<usize>()
        > depth
}

/// Finds the first bracket that opens a level beyond [`MAX_DEPTH`].
fn find_excess_depth(body: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        match byte {
            b'[' | b'{' if depth == MAX_DEPTH => return Some(at),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => at = find_string_end(body, at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Finds the closing quote of the string whose content starts at `at`, or the end of the body.
fn find_string_end(body: &[u8], mut at: usize) -> usize {
    while let Some(distance) = body
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        at += distance;
        if body[at] == b'"' {
            return at;
        }
        at += 2;
    }
    body.len()
}

/// Finds the first `\u` escape that is half a surrogate pair. Exact for valid JSON, where
/// backslashes occur only in strings.
fn find_lone_surrogate(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(distance) = body.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += distance;
        at += match parse_code_unit(&body[at..]) {
            Some(0xd800..=0xdbff) => {
                let rest = &body[at + 6..];
                match parse_code_unit(rest) {
                    Some(0xdc00..=0xdfff) => 12,
                    // Cut off within the second half. The syntax check reports this, which is the
                    // more useful error.
                    None if matches!(rest, [] | [b'\\'] | [b'\\', b'u', ..]) && rest.len() < 6 => {
                        return None;
                    }
                    _ => return Some(at),
                }
            }
            Some(0xdc00..=0xdfff) => return Some(at),
            Some(_) => 6,
            None => 2,
        };
    }
    None
}

/// Parses the `\u` escape at the start of `text`.
fn parse_code_unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

#[cold]
fn not_utf8_error(body: &[u8], error: std::str::Utf8Error) -> UnreadableBody {
    let at = BodyPosition::new(body, error.valid_up_to());
    let detail = match error.error_len() {
        Some(_) => format!("The body is not UTF-8 at {at}: send JSON in UTF-8."),
        None => {
            format!("The body ends within the UTF-8 character at {at}: it was cut off.")
        }
    };
    UnreadableBody {
        code: UnreadableBodyCode::NotUtf8,
        detail,
    }
}

/// Position in a body, for people.
struct BodyPosition {
    /// In bytes, from 0.
    offset: usize,
    /// From 1.
    line: usize,
    /// In bytes, from 1.
    column: usize,
}

impl BodyPosition {
    fn new(body: &[u8], offset: usize) -> Self {
        let before = &body[..offset];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        let column = offset - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1) + 1;
        BodyPosition {
            offset,
            line,
            column,
        }
    }
}

impl fmt::Display for BodyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "byte {} (line {}, column {})",
            self.offset, self.line, self.column
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &[u8]) -> Option<UnreadableBodyCode> {
        decode_body(body).err().map(|error| error.code)
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for good in [
            r#"{"a":"\ud83d\ude00"}"#,
            r#"{"a":"\uD83D\uDE00\uD83D\uDE00"}"#,
            r#"{"a":"\u00e9\n\\ud83d"}"#,
            r#"{"\ud83d\ude00":1}"#,
            r#"{"a":"\\\\ud83d"}"#,
            r#"{"a":"\ue000\ud7ff"}"#,
        ] {
            assert_eq!(code(good.as_bytes()), None, "{good}");
        }
        for (bad, offset) in [
            (r#"{"a":"\ud83d"}"#, 6),
            (r#"{"a":"\ude00"}"#, 6),
            (r#"{"a":"\ude00\ud83d"}"#, 6),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, 6),
            (r#"{"\uDBFF":1}"#, 2),
            (r#"{"a":"\ud83dx\ude00"}"#, 6),
            (r#"{"a":"\ud83d\n"}"#, 6),
            (r#"{"a":"\\\ud83d"}"#, 8),
        ] {
            assert_eq!(find_lone_surrogate(bad.as_bytes()), Some(offset), "{bad}");
            assert_eq!(
                code(bad.as_bytes()),
                Some(UnreadableBodyCode::LoneSurrogate),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_truncated_pair_is_left_to_the_syntax_check() {
        let pair = r#"{"a":"\ud83d\ude00"#;
        for end in 0..=pair.len() {
            assert_eq!(find_lone_surrogate(&pair.as_bytes()[..end]), None, "{end}");
        }
    }

    #[test]
    fn positions_count_lines() {
        let error = decode_body(b"{\n\n  \"a\": \"\\ud800\"}").unwrap_err();
        assert!(
            error.detail.contains("byte 11 (line 3, column 9)"),
            "{}",
            error.detail
        );
        let error = decode_body(b"ab\xff").unwrap_err();
        assert!(
            error.detail.contains("byte 2 (line 1, column 3)"),
            "{}",
            error.detail
        );
        let error = decode_body(b"ab\xe2\x82").unwrap_err();
        assert!(error.detail.contains("cut off"), "{}", error.detail);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(check_depth(&nested(64)), Ok(()));
        let error = check_depth(&nested(65)).unwrap_err();
        assert_eq!(error.code, UnreadableBodyCode::TooDeep);
        assert!(error.detail.contains("byte 64 "), "{}", error.detail);
        assert_eq!(check_depth(&format!("[\"{}\"]", "[".repeat(1000))), Ok(()));
        assert_eq!(
            check_depth(&format!("[\"\\\"{}\\\\\"]", "{".repeat(1000))),
            Ok(())
        );
        assert_eq!(check_depth(&format!("[{}0]", "[],".repeat(1000))), Ok(()));
        assert!(check_depth(&format!("[\"]]]]\\\"]]]]\",{}]", nested(64))).is_err());
        // Malformed in every way, but no panic.
        let _ = check_depth(&format!("{}\"", "]".repeat(100) + &"[".repeat(65)));
        let _ = check_depth(&format!("{}\"\\", "[]".repeat(100)));
    }

    #[test]
    fn the_cheap_count_does_not_overflow() {
        assert!(!can_exceed_depth(&"[{".repeat(32), 64));
        assert!(can_exceed_depth(&"[".repeat(65), 64));
        assert!(can_exceed_depth(&"{".repeat(100_000), 99_999));
        assert!(!can_exceed_depth(&"]};:aZ".repeat(1000), 0));
    }
}
