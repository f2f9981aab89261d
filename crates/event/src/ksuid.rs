//! KSUIDs: the format of the sender's ids, which sort by the second of their creation.

use std::fmt;

/// Number of base-62 digits.
const DIGITS: usize = 27;

/// Digits in the order of their values. This is also the order of ASCII, so texts sort like ids.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62⁵, the largest power of 62 that fits a 32-bit limb.
const FIVE_DIGITS: u32 = 62_u32.pow(5);

/// 62¹⁰, the largest power of 62 that fits 64 bits.
const TEN_DIGITS: u128 = 62_u128.pow(10);

/// Value of a digit, by its ASCII code.
const DIGIT_VALUES: [u8; 256] = {
    let mut values = [INVALID_DIGIT; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

const INVALID_DIGIT: u8 = 0xff;

/// KSUID: the seconds since [`Ksuid::EPOCH_SECONDS`] (4 bytes, big-endian) and a payload (16
/// bytes). As text it has 27 base-62 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ksuid([u8; 20]);

impl Ksuid {
    /// Zero of a KSUID's seconds, in seconds since 1970: 13 May 2014.
    pub const EPOCH_SECONDS: i64 = 1_400_000_000;

    /// Makes an id from a time in milliseconds since 1970 and a payload. Times before 2014 or after
    /// 2150 do not fit; the nearest one that fits is taken.
    pub fn new(created_ms: i64, payload: [u8; 16]) -> Self {
        let seconds = created_ms.div_euclid(1000) - Self::EPOCH_SECONDS;
        let seconds = seconds.clamp(0, i64::from(u32::MAX)) as u32;
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        bytes[4..].copy_from_slice(&payload);
        Self(bytes)
    }

    /// Creation time in seconds since 1970.
    pub fn seconds(&self) -> i64 {
        let [a, b, c, d, ..] = self.0;
        Self::EPOCH_SECONDS + i64::from(u32::from_be_bytes([a, b, c, d]))
    }

    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Makes an id from its bytes.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Appends the 27 digits.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode_digits());
    }

    /// Parses 27 base-62 digits; `None` for any other text and for a value that exceeds 20 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let text: &[u8; DIGITS] = text.as_bytes().try_into().ok()?;
        let (first, rest) = text.split_at(7);
        let (second, third) = rest.split_at(10);
        let [first, second, third] = [first, second, third].map(decode_digits);
        let [first, second, third] = [first?, second?, third?].map(u128::from);
        let upper = first * TEN_DIGITS + second;
        let lower = (upper & u128::from(u64::MAX)) * TEN_DIGITS + third;
        let upper = (upper >> 64) * TEN_DIGITS + (lower >> 64);
        if upper >> 96 > 0 {
            return None;
        }
        let mut bytes = [0; 20];
        bytes[..12].copy_from_slice(&upper.to_be_bytes()[4..]);
        bytes[12..].copy_from_slice(&lower.to_be_bytes()[8..]);
        Some(Self(bytes))
    }

    /// Divides the five 32-bit limbs by 62⁵ again and again, from the least significant digits on.
    fn encode_digits(&self) -> [u8; DIGITS] {
        let mut limbs = [0_u32; 5];
        for (limb, bytes) in limbs.iter_mut().zip(self.0.chunks_exact(4)) {
            *limb = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let mut digits = [ALPHABET[0]; DIGITS];
        for digits in digits.rchunks_mut(5) {
            let mut rest = 0_u64;
            for limb in &mut limbs {
                let dividend = rest << 32 | u64::from(*limb);
                *limb = (dividend / u64::from(FIVE_DIGITS)) as u32;
                rest = dividend % u64::from(FIVE_DIGITS);
            }
            let mut rest = rest as u32;
            for digit in digits.iter_mut().rev() {
                *digit = ALPHABET[(rest % 62) as usize];
                rest /= 62;
            }
        }
        digits
    }
}

/// Decodes up to ten base-62 digits.
fn decode_digits(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    let mut seen = 0;
    for &digit in digits {
        let value = DIGIT_VALUES[usize::from(digit)];
        number = number * 62 + u64::from(value);
        seen |= value;
    }
    // INVALID_DIGIT has the highest bit set, no digit's value does.
    (seen & 0x80 == 0).then_some(number)
}

impl fmt::Display for Ksuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.encode_digits()).expect("base-62 digits are ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: &str = "aWgEPTl1tmebfsQzFP4bxwgy80V";

    #[test]
    fn vectors_of_the_reference_implementation() {
        let id = Ksuid::parse("0ujtsYcgvSTl8PAuAdqWYSMnLOv").unwrap();
        assert_eq!(id.seconds(), Ksuid::EPOCH_SECONDS + 107_608_047);
        let payload = 0xb5a1_cd34_b5f9_9d11_54fb_6853_345c_9735_u128.to_be_bytes();
        assert_eq!(id.as_bytes()[4..], payload);
        let new = Ksuid::new(1_507_608_047_999, payload);
        assert_eq!(new, id);
        assert_eq!(new.to_string(), "0ujtsYcgvSTl8PAuAdqWYSMnLOv");

        assert_eq!(Ksuid::from_bytes([0; 20]).to_string(), "0".repeat(27));
        assert_eq!(Ksuid::from_bytes([0xff; 20]).to_string(), LARGEST);
        assert_eq!(Ksuid::parse(LARGEST), Some(Ksuid([0xff; 20])));
    }

    #[test]
    fn other_texts_are_not_ksuids() {
        for text in [
            "",
            "0ujtsYcgvSTl8PAuAdqWYSMnLO",
            "0ujtsYcgvSTl8PAuAdqWYSMnLOv0",
            "0ujtsYcgvSTl8PAuAdqWYSMnLO-",
            "0ujtsYcgvSTl8PAuAdqWYSMnLé",
            // One above the largest value, and far above it.
            "aWgEPTl1tmebfsQzFP4bxwgy80W",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert_eq!(Ksuid::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_that_do_not_fit_are_clamped() {
        assert_eq!(Ksuid::new(0, [0; 16]).seconds(), Ksuid::EPOCH_SECONDS);
        let last = Ksuid::EPOCH_SECONDS + i64::from(u32::MAX);
        assert_eq!(Ksuid::new(i64::MAX, [0; 16]).seconds(), last);
        assert_eq!(Ksuid::new(-1, [0; 16]).seconds(), Ksuid::EPOCH_SECONDS);
    }

    proptest! {
        #[test]
        fn text_round_trips_and_sorts_like_bytes(bytes: [u8; 20], other: [u8; 20]) {
            let (id, other) = (Ksuid(bytes), Ksuid(other));
            let mut text = Vec::new();
            id.write_to(&mut text);
            prop_assert_eq!(text.len(), 27);
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(Ksuid::parse(&text), Some(id));
            prop_assert_eq!(text.cmp(&other.to_string()), id.cmp(&other));
        }

        #[test]
        fn any_text_is_parsed_or_too_large(text in "[0-9A-Za-z]{27}") {
            match Ksuid::parse(&text) {
                Some(id) => prop_assert_eq!(id.to_string(), text),
                None => prop_assert!(*text > *LARGEST),
            }
        }
    }
}
