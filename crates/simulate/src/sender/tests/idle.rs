//! The state shared by the tasks, without a server.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::super::dispatcher::admission::MAX_OUTSTANDING;
use super::super::generator::tests::outgoing;
use super::super::pace::SendTime;
use super::super::tries::{SendJob, TryOutcome};
use super::*;
use crate::ledger::LoopKind;
use crate::outcome::ServerResponse;

/// Counts the wake-ups.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl WakeCounter {
    fn take_count(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

fn new_dispatcher(slots: usize, loop_kind: LoopKind, timings: SenderTimings) -> Dispatcher {
    let target = SendTarget::parse("http://127.0.0.1:9/").unwrap();
    let ledger = RunLedger::new(Instant::now(), loop_kind, 0);
    Dispatcher::new(vec![target], timings, slots, ledger, None)
}

fn next(dispatcher: &Dispatcher, slot: usize, waker: &Waker) -> Option<SendJob> {
    match dispatcher.poll_next(slot, &mut [None], &mut Context::from_waker(waker)) {
        Poll::Ready(job) => job,
        Poll::Pending => None,
    }
}

#[test]
fn a_slot_that_took_work_unwoken_is_not_woken_for_more() {
    let dispatcher = new_dispatcher(3, LoopKind::Closed, SenderTimings::default());
    let (sender, chunks) = mpsc::channel(1);
    let mut admitting = pin!(dispatcher.admit(chunks));
    let mut admit = |key| {
        let chunk = vec![(outgoing(key, DeliveryKind::First), SendTime::Any)];
        sender.try_send(chunk).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(admitting.as_mut().poll(&mut cx).is_pending());
    };
    let woken: [Arc<WakeCounter>; 3] = Default::default();
    let wakers = woken.clone().map(Waker::from);
    for (slot, waker) in wakers.iter().enumerate() {
        assert!(next(&dispatcher, slot, waker).is_none());
    }
    admit(1);
    assert_eq!(woken.each_ref().map(|w| w.take_count()), [0, 0, 1]);
    // The end of an idle connection has woken another slot, which is faster.
    assert!(next(&dispatcher, 1, &wakers[1]).is_some());
    assert!(next(&dispatcher, 2, &wakers[2]).is_none());
    admit(2);
    assert_eq!(woken.each_ref().map(|w| w.take_count()), [0, 0, 1]);
    assert!(next(&dispatcher, 2, &wakers[2]).is_some());
    admit(3);
    assert_eq!(
        woken.each_ref().map(|w| w.take_count()),
        [1, 0, 0],
        "the idle slot"
    );
}

/// Events without a send time wait for a connection: in a closed loop, and after the end.
#[test]
fn only_events_with_a_send_time_are_dropped_for_waiting() {
    for (loop_kind, send_time, is_dropped) in [
        (LoopKind::Open, SendTime::At(Instant::now()), true),
        (LoopKind::Open, SendTime::Any, false),
        (LoopKind::Closed, SendTime::At(Instant::now()), false),
        (LoopKind::Closed, SendTime::Any, false),
    ] {
        let timings = SenderTimings {
            window: Duration::from_millis(20),
            ..SenderTimings::default()
        };
        let dispatcher = new_dispatcher(1, loop_kind, timings);
        let (sender, chunks) = mpsc::channel(1);
        sender
            .try_send(vec![(outgoing(1, DeliveryKind::First), send_time)])
            .unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(dispatcher.admit(chunks)).poll(&mut cx).is_pending());
        std::thread::sleep(Duration::from_millis(25));
        let job = next(&dispatcher, 0, Waker::noop());
        assert_eq!(job.is_none(), is_dropped, "{loop_kind:?} {send_time:?}");
        let dropped = dispatcher
            .ledger
            .borrow()
            .send_outcome_count(SendOutcome::Dropped);
        assert_eq!(dropped, u64::from(is_dropped));
    }
}

#[test]
fn an_open_loop_drops_the_oldest_instead_of_waiting() {
    for (loop_kind, more, dropped) in [(LoopKind::Open, 20, 10), (LoopKind::Closed, 0, 0)] {
        let dispatcher = new_dispatcher(1, loop_kind, SenderTimings::default());
        let (sender, chunks) = mpsc::channel(2);
        let now = SendTime::At(Instant::now());
        let chunk = |keys: std::ops::Range<usize>| {
            let jobs = keys.map(|key| (outgoing(key as u64, DeliveryKind::First), now));
            jobs.collect::<Vec<_>>()
        };
        sender.try_send(chunk(10..MAX_OUTSTANDING)).unwrap();
        sender
            .try_send(chunk(MAX_OUTSTANDING..MAX_OUTSTANDING + 20))
            .unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(dispatcher.admit(chunks)).poll(&mut cx).is_pending());
        let first = next(&dispatcher, 0, Waker::noop()).unwrap();
        assert_eq!(first.outgoing.reading_key, 10 + dropped, "the oldest");
        let ledger = dispatcher.ledger.borrow();
        assert_eq!(ledger.send_outcome_count(SendOutcome::Dropped), dropped);
        assert_eq!(ledger.deliveries(), MAX_OUTSTANDING as u64 - 10 + more);
    }
}

/// A dispatcher with a paused job whose first try was answered with a 422.
fn refused_once(timings: SenderTimings) -> Dispatcher {
    let dispatcher = new_dispatcher(1, LoopKind::Closed, timings);
    let (sender, chunks) = mpsc::channel(1);
    sender
        .try_send(vec![(outgoing(1, DeliveryKind::First), SendTime::Any)])
        .unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pin!(dispatcher.admit(chunks)).poll(&mut cx).is_pending());
    let mut job = next(&dispatcher, 0, Waker::noop()).unwrap();
    let now = Instant::now();
    job.begin_try(now);
    let refused = ServerResponse {
        status: 422,
        outcome: None,
        position: None,
    };
    dispatcher.conclude_try(job, TryOutcome::Responded(refused), now);
    assert_eq!(
        dispatcher
            .ledger
            .borrow()
            .send_outcome_count(SendOutcome::Refused),
        0,
        "the job is paused"
    );
    dispatcher
}

#[test]
fn a_refused_job_past_its_window_counts_as_refused() {
    let dispatcher = refused_once(SenderTimings {
        window: Duration::from_millis(20),
        pauses: vec![Duration::from_millis(10)],
        ..SenderTimings::default()
    });
    std::thread::sleep(Duration::from_millis(25));
    let now = Instant::now();
    dispatcher.tick(now, now);
    assert!(next(&dispatcher, 0, Waker::noop()).is_none());
    assert_eq!(
        dispatcher
            .ledger
            .borrow()
            .send_outcome_count(SendOutcome::Refused),
        1
    );
}

#[test]
fn a_refused_job_that_is_given_up_counts_as_refused() {
    let dispatcher = refused_once(SenderTimings {
        pauses: vec![Duration::from_secs(5)],
        ..SenderTimings::default()
    });
    let now = Instant::now();
    dispatcher.begin_draining(now);
    dispatcher.tick(now, now);
    assert_eq!(
        dispatcher
            .ledger
            .borrow()
            .send_outcome_count(SendOutcome::Refused),
        0
    );
    // The next try would be due by then, but the run is given up.
    let hopeless = now + Duration::from_secs(20);
    dispatcher.tick(hopeless, now);
    assert_eq!(
        dispatcher
            .ledger
            .borrow()
            .send_outcome_count(SendOutcome::Refused),
        1
    );
}
