//! Dry run: prints the bodies instead of sending them.

use std::io::{self, Write};

use super::control::StopSignal;
use super::generator::{BodyHashes, EventGenerator};
use super::pace::SendPace;
use crate::limits::RunLimits;
use crate::stream::DeliveryStream;

/// Writes the body of each delivery as a line, at the pace at which it would be sent.
///
/// # Errors
/// The output cannot be written. Nothing more is generated then.
pub fn print_bodies(
    stream: DeliveryStream,
    pace: SendPace,
    limits: RunLimits,
    stop: StopSignal,
    out: &mut impl Write,
) -> io::Result<()> {
    let (generator, mut chunks, _) =
        EventGenerator::new(stream, pace, limits, stop, BodyHashes::Skip);
    let generator = std::thread::Builder::new().spawn(move || drop(generator.run()))?;
    let mut written = Ok(());
    while let Some(chunk) = chunks.blocking_recv() {
        written = chunk
            .iter()
            .try_for_each(|(outgoing, _)| {
                out.write_all(&outgoing.body)?;
                out.write_all(b"\n")
            })
            .and_then(|()| out.flush());
        if written.is_err() {
            break;
        }
    }
    drop(chunks);
    if let Err(panic) = generator.join() {
        std::panic::resume_unwind(panic);
    }
    written
}
