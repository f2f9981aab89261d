//! `manifest.json`: the list of segments with their removed rows, and how far entries were handed
//! to Kafka. One JSON object, its body with a checksum; always replaced as a whole.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::removed_rows::WrittenRemovedRows;
use butlr_event::destination::Destination;

const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Greater than the number of any segment.
    pub next_segment: u32,
    pub segments: Vec<WrittenSegment>,
    pub handed: Vec<WrittenHandover>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WrittenSegment {
    pub number: u32,
    /// Time of receipt of the first entry, ms since 1970.
    #[serde(default)]
    pub first_ms: Option<i64>,
    /// Length of the file, once it is never written again.
    #[serde(default)]
    pub sealed: Option<u64>,
    /// Rows by destination; exact if sealed, otherwise a lower bound.
    pub rows: Vec<u64>,
    /// Rows that are not removed.
    pub live: Vec<u64>,
    #[serde(default)]
    pub removed: Option<WrittenRemovedRows>,
}

/// A hand-over of entries to Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrittenHandover {
    pub to: usize,
    pub upto: u64,
    pub tails: Vec<(i32, i64)>,
}

#[derive(Serialize, Deserialize)]
struct ManifestEnvelope<'m> {
    format: u32,
    checksum: String,
    #[serde(borrow)]
    body: &'m RawValue,
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = serde_json::value::to_raw_value(self).expect("numbers and strings");
        let checksum = checksum(&body);
        let envelope = ManifestEnvelope {
            format: FORMAT_VERSION,
            checksum,
            body: &body,
        };
        let mut bytes = serde_json::to_vec(&envelope).expect("numbers and strings");
        bytes.push(b'\n');
        bytes
    }

    /// Decodes a manifest; the error is the reason as text.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let envelope: ManifestEnvelope =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if envelope.format != FORMAT_VERSION {
            return Err(format!(
                "it has format {}, which this release cannot read",
                envelope.format
            ));
        }
        if envelope.checksum != checksum(envelope.body) {
            return Err("its checksum does not match".to_owned());
        }
        let mut manifest: Self =
            serde_json::from_str(envelope.body.get()).map_err(|error| error.to_string())?;
        for segment in &mut manifest.segments {
            for rows in [&mut segment.rows, &mut segment.live] {
                if rows.len() > Destination::COUNT {
                    return Err("it has other destinations".to_owned());
                }
                // A release with fewer event types wrote shorter lists; new destinations get the
                // next index, so they have no rows in it.
                rows.resize(Destination::COUNT, 0);
            }
        }
        Ok(manifest)
    }
}

/// Returns `true` for a manifest, even a damaged one or one of another release.
pub(super) fn is_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice::<ManifestEnvelope<'_>>(bytes).is_ok()
}

fn checksum(body: &RawValue) -> String {
    format!("{:016x}", xxh3_64(body.get().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_with_fewer_destinations_is_read() {
        let decode = |destinations: usize| {
            let segment = WrittenSegment {
                number: 1,
                first_ms: None,
                sealed: None,
                rows: vec![3; destinations],
                live: vec![2; destinations],
                removed: None,
            };
            let manifest = Manifest {
                segments: vec![segment],
                ..Manifest::default()
            };
            Manifest::decode(&manifest.encode())
        };
        let manifest = decode(Destination::COUNT - 1).unwrap();
        for (rows, value) in [
            (&manifest.segments[0].rows, 3),
            (&manifest.segments[0].live, 2),
        ] {
            let (last, rest) = rows.split_last().unwrap();
            assert_eq!((*last, rest), (0, &[value; Destination::COUNT - 1][..]));
        }
        assert!(decode(Destination::COUNT).is_ok());
        assert!(decode(Destination::COUNT + 1).is_err());
    }
}
