//! One connection's worth of sending: takes a job, tries it, takes the next.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Instant;

use super::client::{ExchangeOutcome, SenderClient};
use super::deadline::TaskDeadline;
use super::dispatcher::Dispatcher;
use super::target::SendTarget;
use super::tries::{SendJob, TryOutcome};

/// Works until there is nothing more to send.
pub(super) async fn run_slot(dispatch: Rc<Dispatcher>, slot: usize) {
    let mut connections = Vec::new();
    connections.resize_with(dispatch.targets.len(), || None);
    loop {
        let next = poll_fn(|cx| dispatch.poll_next(slot, &mut connections, cx));
        let Some(mut job) = next.await else { return };
        let now = Instant::now();
        job.begin_try(now);
        {
            let mut ledger = dispatch.ledger.borrow_mut();
            ledger.record_try(job.tries);
            if job.tries == 1 && !job.outgoing.after_end {
                ledger.record_lateness(job.latency(now));
            }
        }
        let deadline = &dispatch.deadlines[slot];
        deadline.set(now + dispatch.timings.http_timeout);
        let place = job.target_index(connections.len());
        let to = (&dispatch.targets[place], &mut connections[place]);
        let outcome = try_once(&dispatch, deadline, to, &job).await;
        dispatch.conclude_try(job, outcome, Instant::now());
    }
}

/// One try. The connection is there afterwards if it can be used again.
async fn try_once(
    dispatch: &Rc<Dispatcher>,
    deadline: &TaskDeadline,
    (target, connection): (&SendTarget, &mut Option<Box<SenderClient>>),
    job: &SendJob,
) -> TryOutcome {
    let outgoing = &job.outgoing;
    let mut request = target.build_request(outgoing.event_type, outgoing.body.clone());
    let wants_position = dispatch.is_journaled();
    loop {
        let (client, is_new) = match connection.take() {
            Some(client) => (client, false),
            None => match connect(dispatch, target, deadline).await {
                Ok(client) => (client, true),
                Err(tried) => return tried,
            },
        };
        let mut exchange = Box::pin(client.exchange(request, wants_position));
        match deadline.race(exchange.as_mut()).await {
            Some(ExchangeOutcome::Answered(answered, client)) => {
                *connection = client;
                return TryOutcome::Answered(answered);
            }
            // A kept-alive connection that the server closed meanwhile: as if it had not been there.
            Some(ExchangeOutcome::Unsent(unsent)) if !is_new => request = *unsent,
            Some(ExchangeOutcome::Unsent(_)) => {
                let reason = "the connection was closed before the request".to_owned();
                dispatch
                    .ledger
                    .borrow_mut()
                    .record_connection_failure(reason);
                return TryOutcome::Unconnected;
            }
            Some(ExchangeOutcome::Broken) => return TryOutcome::Broken,
            None => {
                await_late_answer(dispatch, job, exchange);
                return TryOutcome::TimedOut;
            }
        }
    }
}

async fn connect(
    dispatch: &Dispatcher,
    target: &SendTarget,
    deadline: &TaskDeadline,
) -> Result<Box<SenderClient>, TryOutcome> {
    let connecting = pin!(SenderClient::connect(target));
    match deadline.race(connecting).await {
        Some(Ok(client)) => {
            dispatch.mark_connected();
            Ok(client)
        }
        Some(Err(error)) => {
            dispatch
                .ledger
                .borrow_mut()
                .record_connection_failure(error);
            Err(TryOutcome::Unconnected)
        }
        None => {
            let mut ledger = dispatch.ledger.borrow_mut();
            ledger.record_connection_failure("it took longer than the time-out".to_owned());
            Err(TryOutcome::Unconnected)
        }
    }
}

/// The request may still be answered: its answer is noted, though it changes nothing any more.
fn await_late_answer<F>(dispatch: &Rc<Dispatcher>, job: &SendJob, exchange: Pin<Box<F>>)
where
    F: Future<Output = ExchangeOutcome> + 'static,
{
    let (mut outgoing, cause) = (job.outgoing.clone(), job.cause);
    outgoing.body = bytes::Bytes::new();
    if !dispatch.begin_listening(outgoing.reading_key) {
        dispatch.journal_late_answer(&outgoing, cause, None);
        return;
    }
    let dispatch = Rc::clone(dispatch);
    tokio::task::spawn_local(async move {
        let exchanged = tokio::select! {
            biased;
            exchanged = exchange => Some(exchanged),
            () = dispatch.stop_listening.notified() => None,
            () = tokio::time::sleep(dispatch.timings.late_answer_timeout) => None,
        };
        let answered = match exchanged {
            Some(ExchangeOutcome::Answered(answered, _)) => Some(answered),
            _ => None,
        };
        if let Some(answered) = &answered {
            dispatch.ledger.borrow_mut().record_late_response(answered);
        }
        dispatch.journal_late_answer(&outgoing, cause, answered.as_ref());
        dispatch.end_listening(outgoing.reading_key);
    });
}
