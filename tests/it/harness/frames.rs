//! Parser for the Kafka requests and responses that pass the proxy: just enough of the protocol to
//! fake a broker error.
//!
//! Source: <https://kafka.apache.org/protocol>, the headers and *Produce* from version 9 on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// API key of *Produce*.
const PRODUCE: i16 = 0;
/// First version with varint lengths; responses of older versions are left unchanged.
const FLEXIBLE_VERSION: i16 = 9;
/// *OUT_OF_ORDER_SEQUENCE_NUMBER*: the broker lost a record that it had confirmed. Fatal for
/// librdkafka.
const OUT_OF_ORDER_SEQUENCE: i16 = 45;

/// *Produce* requests of one connection: the version by correlation id.
pub type ProduceRequests = Arc<Mutex<HashMap<i32, i16>>>;

/// Position within the frames of one direction.
#[derive(Default)]
struct FrameCursor {
    /// Bytes of the current frame that have not passed yet.
    remaining: usize,
    /// Start of a frame that arrived in several pieces.
    head: Vec<u8>,
}

impl FrameCursor {
    /// Calls `see` with the first `head` bytes of each frame and with the rest of the frame, which
    /// is empty unless all of it is in `piece`.
    fn visit_frames(
        &mut self,
        piece: &mut [u8],
        head: usize,
        mut see: impl FnMut(&[u8], &mut [u8]),
    ) {
        let mut at = 0;
        while at < piece.len() {
            let passing = self.remaining.min(piece.len() - at);
            (self.remaining, at) = (self.remaining - passing, at + passing);
            if at == piece.len() {
                return;
            }
            let more = (head - self.head.len()).min(piece.len() - at);
            self.head.extend(&piece[at..at + more]);
            at += more;
            if self.head.len() < head {
                return;
            }
            let length = [0, 1, 2, 3].map(|n| self.head[n]);
            self.remaining = (4 + u32::from_be_bytes(length) as usize).saturating_sub(head);
            let rest = self.remaining.min(piece.len() - at);
            let whole = rest == self.remaining;
            see(
                &self.head,
                if whole {
                    &mut piece[at..at + rest]
                } else {
                    &mut []
                },
            );
            self.head.clear();
        }
    }
}

/// Reads the requests of a client.
pub struct RequestObserver {
    cursor: FrameCursor,
    produces: ProduceRequests,
}

impl RequestObserver {
    pub fn new(produces: &ProduceRequests) -> Self {
        Self {
            cursor: FrameCursor::default(),
            produces: Arc::clone(produces),
        }
    }

    /// Notes each *Produce* request.
    pub fn observe(&mut self, piece: &mut [u8]) {
        let produces = &self.produces;
        self.cursor.visit_frames(piece, 12, |head, _| {
            let key = i16::from_be_bytes([head[4], head[5]]);
            let version = i16::from_be_bytes([head[6], head[7]]);
            let number = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
            if key == PRODUCE {
                let mut produces = produces.lock().expect("lock not poisoned");
                produces.insert(number, version);
            }
        });
    }
}

/// Changes the responses of a broker.
pub struct ResponseTamperer {
    cursor: FrameCursor,
    produces: ProduceRequests,
}

impl ResponseTamperer {
    pub fn new(produces: &ProduceRequests) -> Self {
        Self {
            cursor: FrameCursor::default(),
            produces: Arc::clone(produces),
        }
    }

    /// Turns up to `wanted` successful *Produce* responses into errors and returns how many. A
    /// response that arrives in several pieces is left unchanged.
    pub fn tamper(&mut self, piece: &mut [u8], wanted: u32) -> u32 {
        let produces = &self.produces;
        let mut made = 0;
        self.cursor.visit_frames(piece, 8, |head, body| {
            let number = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            let version = produces.lock().expect("lock not poisoned").remove(&number);
            if version.is_some_and(|v| v >= FLEXIBLE_VERSION)
                && made < wanted
                && set_error_code(body).is_some()
            {
                made += 1;
            }
        });
        made
    }
}

/// Sets the error code of the first partition if it is 0.
fn set_error_code(body: &mut [u8]) -> Option<()> {
    let mut at = 0;
    // Tagged fields of the header, which librdkafka and Kafka leave empty.
    let tags = read_varint(body, &mut at)?;
    let topics = read_varint(body, &mut at)?;
    let name = read_varint(body, &mut at)?;
    at += name.checked_sub(1)?;
    let partitions = read_varint(body, &mut at)?;
    if tags != 0 || topics != 2 || partitions != 2 {
        return None;
    }
    let code = body.get_mut(at + 4..at + 6)?;
    if code != [0, 0] {
        return None;
    }
    code.copy_from_slice(&OUT_OF_ORDER_SEQUENCE.to_be_bytes());
    Some(())
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
}
