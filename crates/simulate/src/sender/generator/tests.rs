use std::collections::HashMap;

use butlr_event::clock::now_ms;
use serde_json::Value;

use super::*;
use crate::city::{CityBehaviour, CityPlan, CitySimulation, CitySize};
use crate::sender::queue::SendQueue;
use crate::sender::tries::SendJob;
use crate::stream::SenderBehaviour;

/// An event with this reading key.
pub(in crate::sender) fn outgoing(key: u64, kind: DeliveryKind) -> OutgoingEvent {
    OutgoingEvent {
        due_ms: 0,
        reading_key: key,
        event_type: EventType::Traffic,
        kind,
        expected: Some(OracleVerdict::First),
        id: Ksuid::new(1_700_000_000_000, [7; 16]),
        body: Bytes::from_static(b"{}"),
        body_hash: 1,
        data_hash: 2,
        after_end: false,
    }
}

const LONG_AGO: i64 = 1_727_690_400_000;

/// A generator for a city without clock errors.
fn generator(
    pace: SendPace,
    start_ms: i64,
    limits: RunLimits,
) -> (
    EventGenerator,
    mpsc::Receiver<EventChunk>,
    Arc<GeneratorProgress>,
) {
    let size = CitySize {
        rooms: 200,
        sensors: None,
    };
    let behaviour = CityBehaviour {
        skewed: 0.0,
        ..CityBehaviour::default()
    };
    let city = CitySimulation::new(
        Arc::new(CityPlan::generate(3, size)),
        3,
        start_ms,
        behaviour,
    );
    let stream = DeliveryStream::new(city, 3, SenderBehaviour::default());
    EventGenerator::new(stream, pace, limits, StopSignal::new(), BodyHashes::Skip)
}

fn after_events(events: u64) -> RunLimits {
    RunLimits {
        events: Some(events),
        duration: None,
    }
}

/// Collects all events, checks that none comes before its send time, and returns the true
/// positions.
fn collect_all(
    (generator, mut chunks, _): (
        EventGenerator,
        mpsc::Receiver<EventChunk>,
        Arc<GeneratorProgress>,
    ),
) -> (Vec<(OutgoingEvent, SendTime)>, GroundTruth) {
    let generator = std::thread::spawn(move || generator.run());
    let mut all = Vec::new();
    while let Some(chunk) = chunks.blocking_recv() {
        for (outgoing, send_time) in chunk {
            if let SendTime::At(at) = send_time {
                assert!(at <= Instant::now(), "sent before its send time");
            }
            let event: Value = serde_json::from_slice(&outgoing.body).unwrap();
            assert!(event["timestamp"].as_i64().unwrap() <= now_ms(), "{event}");
            all.push((outgoing, send_time));
        }
    }
    (all, generator.join().unwrap())
}

/// Asserts that entries and exits add up to the true positions.
fn assert_totals(all: &[(OutgoingEvent, SendTime)], truth: &GroundTruth) {
    let mut people: HashMap<String, i64> = HashMap::new();
    for (outgoing, _) in all {
        if outgoing.event_type != EventType::Traffic || outgoing.kind == DeliveryKind::Redelivery {
            continue;
        }
        let event: Value = serde_json::from_slice(&outgoing.body).unwrap();
        let metadata = &event["metadata"];
        let space = metadata.get("room_id").unwrap_or(&metadata["floor_id"]);
        let count = |direction: &str| event["data"][direction].as_i64().unwrap();
        let space = space.as_str().unwrap().to_owned();
        *people.entry(space).or_default() += count("in") - count("out");
    }
    for (space, count) in &truth.spaces {
        let sum = people.get(space).copied().unwrap_or(0);
        assert_eq!(sum, i64::from(*count), "{space}");
    }
}

#[test]
fn the_rest_completes_the_totals_and_keeps_the_rate() {
    let parts = generator(SendPace::Rate(1_000.0), LONG_AGO, after_events(2_000));
    let (progress, started_at) = (Arc::clone(&parts.2), parts.0.started_at());
    let (all, truth) = collect_all(parts);
    assert_totals(&all, &truth);
    assert!(truth.spaces.iter().any(|(_, count)| *count > 0));
    let rest: Vec<_> = all.iter().filter(|(o, _)| o.after_end).collect();
    assert_eq!(all.len() - rest.len(), 2_000);
    assert!(!rest.is_empty() && rest.len() < 200, "{}", rest.len());
    assert_eq!(
        (progress.after_end(), progress.omitted()),
        (rest.len() as u64, 0)
    );
    assert!(rest.iter().all(|(o, _)| o.event_type == EventType::Traffic));
    // The first event is due immediately.
    let least = Duration::from_secs_f64((all.len() - 1) as f64 / 1_000.0);
    assert!(
        started_at.elapsed() >= least,
        "faster than the requested rate"
    );
}

#[test]
fn a_duration_limits_the_number_of_events_at_a_rate() {
    let limits = RunLimits {
        events: None,
        duration: Some(Duration::from_millis(500)),
    };
    let (all, _) = collect_all(generator(SendPace::Rate(20.0), LONG_AGO, limits));
    let before_end = all.iter().filter(|(o, _)| !o.after_end).count();
    assert!(before_end <= 10, "{before_end}");
}

#[test]
fn a_closed_loop_sends_all_waiting_events() {
    let parts = generator(SendPace::Max, LONG_AGO, after_events(2_000));
    let (all, truth) = collect_all(parts);
    assert_totals(&all, &truth);
    assert!(
        all.iter()
            .any(|(o, _)| o.after_end && o.event_type != EventType::Traffic)
    );
}

#[test]
fn events_in_the_future_at_the_end_wait_until_they_have_happened() {
    // Ticks end with the second. People arrive in the third tick, which has just begun when the run
    // ends.
    let start_ms = now_ms();
    let until_second = 1_000 - start_ms as u64 % 1_000;
    let limits = RunLimits {
        events: None,
        duration: Some(Duration::from_millis(until_second + 1_100)),
    };
    let (all, truth) = collect_all(generator(SendPace::REAL_TIME, start_ms, limits));
    assert_totals(&all, &truth);
    assert!(all.iter().any(|(o, _)| o.after_end));
}

#[test]
fn due_events_do_not_wait_for_the_city() {
    let (mut generator, mut chunks, _) =
        generator(SendPace::Rate(1.0), LONG_AGO, RunLimits::default());
    let delivery = generator.stream.next().unwrap();
    assert!(generator.push(&delivery, SendTime::Any, false).is_ok());
    assert!(chunks.try_recv().is_err());
    assert!(generator.compute().is_ok());
    assert_eq!(chunks.try_recv().unwrap().len(), 1);
    // Time spent on the computation counts as nobody's delay, but an event due before it is late.
    let now = Instant::now();
    let ms = Duration::from_millis;
    generator.last_stall = (now, now + ms(10));
    for (at, shifted) in [(now - ms(1), now - ms(1)), (now + ms(1), now + ms(10))] {
        let send_time = generator.shift_past_stall(SendTime::At(at));
        assert_eq!(send_time, SendTime::At(shifted));
    }
    assert_eq!(generator.shift_past_stall(SendTime::Any), SendTime::Any);
}

#[test]
fn the_longest_duration_does_not_overflow() {
    let limits = RunLimits {
        events: None,
        duration: Some(Duration::MAX),
    };
    let (generator, _chunks, _) = generator(SendPace::Max, LONG_AGO, limits);
    assert!(!generator.is_over());
}

#[test]
fn a_waiting_job_does_not_keep_its_chunk() {
    let chunk = Bytes::from(vec![b'x'; 100_000]);
    let job = || {
        let mut outgoing = outgoing(1, DeliveryKind::First);
        outgoing.body = chunk.slice(5..10);
        SendJob::new(outgoing, None)
    };
    let mut queue = SendQueue::default();
    assert!(queue.admit(job()));
    assert!(!queue.admit(job()), "it waits behind the first");
    let first = queue.next().unwrap();
    assert_eq!(first.outgoing.body, "xxxxx");
    queue.pause(first, Instant::now());
    assert!(chunk.is_unique(), "no job holds it");
}
