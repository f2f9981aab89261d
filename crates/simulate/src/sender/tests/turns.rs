//! Events of one reading are sent one after the other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::SeenRequest;
use super::*;
use crate::oracle::OracleVerdict;

/// The requests of each reading, in the order of arrival.
fn readings(server: &TestServer) -> HashMap<String, Vec<SeenRequest>> {
    let mut readings: HashMap<String, Vec<SeenRequest>> = HashMap::new();
    for seen in server.requests() {
        readings.entry(seen.reading.clone()).or_default().push(seen);
    }
    for seen in readings.values_mut() {
        seen.sort_by_key(|seen| seen.at.0);
    }
    readings
}

#[test]
fn events_of_one_reading_are_sequential() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::RespondAfter(Duration::from_millis(3), 503, ""),
        1 => ServerAction::Close,
        _ => ServerAction::RespondAfter(Duration::from_millis(3), 200, PUBLISHED),
    });
    let ledger = run_with(options(&server, 300), None).ledger;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let readings = readings(&server);
    assert!(readings.values().any(|seen| seen.len() > 10));
    for (reading, seen) in readings {
        for pair in seen.windows(2) {
            assert!(pair[0].at.1 <= pair[1].at.0, "{reading}: two at a time");
        }
        // The tries of an event are not interrupted by another event of the same reading.
        let changes = seen.windows(2).filter(|pair| pair[0].id != pair[1].id);
        let ids: HashSet<_> = seen.iter().map(|seen| &seen.id).collect();
        let copies = seen.len() - 3 * ids.len();
        assert!(changes.count() <= ids.len() - 1 + 2 * copies, "{reading}");
    }
}

/// A timed-out try may still be in progress when the next try of its event is answered: no other
/// event of the reading may overtake it.
#[test]
fn nothing_overtakes_a_try_that_timed_out() {
    let first = AtomicUsize::new(0);
    let server = TestServer::start(move |before| {
        let is_slow = before == 0 && first.fetch_add(1, Ordering::Relaxed).is_multiple_of(8);
        if is_slow {
            ServerAction::RespondAfter(Duration::from_millis(400), 200, PUBLISHED)
        } else {
            ServerAction::Respond(200, REDELIVERY)
        }
    });
    let mut options = options(&server, 300);
    options.timings.http_timeout = Duration::from_millis(300);
    let ledger = run_with(options, None).ledger;
    assert!(ledger.timeouts() > 0);
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let mut followed = 0;
    for (reading, seen) in readings(&server) {
        for (index, one) in seen.iter().enumerate() {
            for later in seen[index + 1..].iter().filter(|later| later.id != one.id) {
                assert!(one.at.1 <= later.at.0, "{reading}: two at a time");
                followed += usize::from(one.at.1 - one.at.0 > Duration::from_millis(300));
            }
        }
    }
    assert!(followed > 0, "no event waited for a timed-out try");
}

/// At the end of a run, the wait for a late response is as short as the HTTP timeout.
#[test]
fn events_behind_a_lost_try_are_sent_in_the_end() {
    let first = AtomicUsize::new(0);
    let server = TestServer::start(move |before| {
        let is_lost = before == 0 && first.fetch_add(1, Ordering::Relaxed).is_multiple_of(50);
        if is_lost {
            ServerAction::Hang
        } else {
            ServerAction::Respond(200, PUBLISHED)
        }
    });
    let mut options = options(&server, 300);
    options.timings.http_timeout = Duration::from_millis(200);
    options.timings.late_response_timeout = Duration::from_secs(600);
    let ledger = run_with(options, None).ledger;
    assert!(ledger.fidelity().complete);
    assert!(ledger.timeouts() > 0);
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
}

/// Each copy is sent together with its original, to another target, and nothing else of the reading
/// is in flight.
#[test]
fn overlapping_copies_are_sent_together_and_to_another_target() {
    let slow = |_| ServerAction::RespondAfter(Duration::from_millis(20), 200, PUBLISHED);
    let servers = [TestServer::start(slow), TestServer::start(slow)];
    let mut options = options(&servers[0], 400);
    options
        .targets
        .push(SendTarget::parse(&servers[1].url()).unwrap());
    let behaviour = SenderBehaviour {
        overlapping: 0.2,
        redelivered: 0.0,
        ..SenderBehaviour::default()
    };
    let finished = run(
        options,
        small_stream(behaviour),
        None,
        ProgressOutput::Silent,
        StopSignal::new(),
    );
    let ledger = finished.unwrap().ledger;
    let copies = ledger.kind_count(DeliveryKind::Overlapping);
    assert!(copies > 20, "{ledger:?}");
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let redeliveries = |t| ledger.expected_count(t, OracleVerdict::Redelivery);
    let redeliveries: u64 = EventType::ALL.into_iter().map(redeliveries).sum();
    assert_eq!(redeliveries, copies);
    let [one, other] = [0, 1].map(|n| readings(&servers[n]));
    let seen = |readings: &HashMap<String, Vec<SeenRequest>>| {
        readings.values().map(Vec::len).sum::<usize>()
    };
    assert!(
        seen(&one).min(seen(&other)) > 100,
        "events are spread over both servers"
    );
    let mut together = 0;
    for (reading, seen) in &one {
        let ids: HashSet<_> = seen.iter().map(|seen| &seen.id).collect();
        assert_eq!(ids.len(), seen.len(), "a copy goes to the other server");
        for one in seen {
            for other in other.get(reading).into_iter().flatten() {
                let overlap = one.at.0 < other.at.1 && other.at.0 < one.at.1;
                together += u64::from(overlap);
                assert!(
                    !overlap || one.id == other.id,
                    "{reading}: two events at a time"
                );
            }
        }
    }
    assert!(together > copies / 2, "{together} of {copies}");
}
