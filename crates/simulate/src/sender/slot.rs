//! A slot: one task per connection that takes a job, tries it, and takes the next.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Instant;

use super::client::{ExchangeOutcome, SenderClient};
use super::deadline::TaskDeadline;
use super::dispatcher::Dispatcher;
use super::target::SendTarget;
use super::tries::{SendJob, TryOutcome};

/// Sends jobs until there are no more.
pub(super) async fn run_slot(dispatcher: Rc<Dispatcher>, slot: usize) {
    let mut connections = Vec::new();
    connections.resize_with(dispatcher.targets.len(), || None);
    loop {
        let next = poll_fn(|cx| dispatcher.poll_next(slot, &mut connections, cx));
        let Some(mut job) = next.await else { return };
        let now = Instant::now();
        job.begin_try(now);
        {
            let mut ledger = dispatcher.ledger.borrow_mut();
            ledger.record_try(job.tries);
            if job.tries == 1 && !job.outgoing.after_end {
                ledger.record_lateness(job.latency(now));
            }
        }
        let deadline = &dispatcher.deadlines[slot];
        deadline.set(now + dispatcher.timings.http_timeout);
        let index = job.target_index(connections.len());
        let target = (&dispatcher.targets[index], &mut connections[index]);
        let outcome = try_once(&dispatcher, deadline, target, &job).await;
        dispatcher.conclude_try(job, outcome, Instant::now());
    }
}

/// Makes one try. Afterwards `connection` holds the connection if it can be reused.
async fn try_once(
    dispatcher: &Rc<Dispatcher>,
    deadline: &TaskDeadline,
    (target, connection): (&SendTarget, &mut Option<Box<SenderClient>>),
    job: &SendJob,
) -> TryOutcome {
    let outgoing = &job.outgoing;
    let mut request = target.build_request(outgoing.event_type, outgoing.body.clone());
    let detail = dispatcher.response_detail();
    loop {
        let (client, is_new) = match connection.take() {
            Some(client) => (client, false),
            None => match connect(dispatcher, target, deadline).await {
                Ok(client) => (client, true),
                Err(outcome) => return outcome,
            },
        };
        let mut exchange = Box::pin(client.exchange(request, detail));
        match deadline.race(exchange.as_mut()).await {
            Some(ExchangeOutcome::Responded(response, client)) => {
                *connection = client;
                return TryOutcome::Responded(response);
            }
            // The server had closed the kept-alive connection: try again with a new one.
            Some(ExchangeOutcome::Unsent(unsent)) if !is_new => request = *unsent,
            Some(ExchangeOutcome::Unsent(_)) => {
                let reason = "the connection was closed before the request".to_owned();
                dispatcher
                    .ledger
                    .borrow_mut()
                    .record_connection_failure(reason);
                return TryOutcome::Unconnected;
            }
            Some(ExchangeOutcome::Broken) => return TryOutcome::Broken,
            None => {
                await_late_response(dispatcher, job, exchange);
                return TryOutcome::TimedOut;
            }
        }
    }
}

async fn connect(
    dispatcher: &Dispatcher,
    target: &SendTarget,
    deadline: &TaskDeadline,
) -> Result<Box<SenderClient>, TryOutcome> {
    let connecting = pin!(SenderClient::connect(target));
    match deadline.race(connecting).await {
        Some(Ok(client)) => {
            dispatcher.mark_connected();
            Ok(client)
        }
        Some(Err(error)) => {
            dispatcher
                .ledger
                .borrow_mut()
                .record_connection_failure(error);
            Err(TryOutcome::Unconnected)
        }
        None => {
            let mut ledger = dispatcher.ledger.borrow_mut();
            ledger.record_connection_failure("it took longer than the timeout".to_owned());
            Err(TryOutcome::Unconnected)
        }
    }
}

/// Waits for the late response to a request. It is recorded but no longer affects the delivery.
fn await_late_response<F>(dispatcher: &Rc<Dispatcher>, job: &SendJob, exchange: Pin<Box<F>>)
where
    F: Future<Output = ExchangeOutcome> + 'static,
{
    let (mut outgoing, cause) = (job.outgoing.clone(), job.cause);
    outgoing.body = bytes::Bytes::new();
    if !dispatcher.begin_listening(outgoing.reading_key) {
        dispatcher.journal_late_response(&outgoing, cause, None);
        return;
    }
    let dispatcher = Rc::clone(dispatcher);
    tokio::task::spawn_local(async move {
        let outcome = tokio::select! {
            biased;
            outcome = exchange => Some(outcome),
            () = dispatcher.stop_listening.notified() => None,
            () = tokio::time::sleep(dispatcher.timings.late_response_timeout) => None,
        };
        let response = match outcome {
            Some(ExchangeOutcome::Responded(response, _)) => Some(response),
            _ => None,
        };
        if let Some(response) = &response {
            dispatcher
                .ledger
                .borrow_mut()
                .record_late_response(response);
        }
        dispatcher.journal_late_response(&outgoing, cause, response.as_ref());
        dispatcher.end_listening(outgoing.reading_key);
    });
}
