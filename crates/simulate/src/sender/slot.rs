//! One connection's worth of sending: takes a job, tries it, takes the next.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Instant;

use super::client::{Client, Exchanged};
use super::deadline::Deadline;
use super::dispatch::Dispatch;
use super::target::Target;
use super::tries::{Job, Tried};

/// Works until there is nothing more to send.
pub(super) async fn work(dispatch: Rc<Dispatch>, slot: usize) {
    let mut connections = Vec::new();
    connections.resize_with(dispatch.targets.len(), || None);
    loop {
        let next = poll_fn(|cx| dispatch.poll_next(slot, &mut connections, cx));
        let Some(mut job) = next.await else { return };
        let now = Instant::now();
        job.begin(now);
        {
            let mut ledger = dispatch.ledger.borrow_mut();
            ledger.tried(job.tries);
            if job.tries == 1 && !job.outgoing.after_end {
                ledger.begun_late(job.latency(now));
            }
        }
        let deadline = &dispatch.deadlines[slot];
        deadline.set(now + dispatch.timings.http_timeout);
        let place = job.target(connections.len());
        let to = (&dispatch.targets[place], &mut connections[place]);
        let tried = attempt(&dispatch, deadline, to, &job).await;
        dispatch.conclude(job, tried, Instant::now());
    }
}

/// One try. The connection is there afterwards if it can be used again.
async fn attempt(
    dispatch: &Rc<Dispatch>,
    deadline: &Deadline,
    (target, connection): (&Target, &mut Option<Box<Client>>),
    job: &Job,
) -> Tried {
    let outgoing = &job.outgoing;
    let mut request = target.request(outgoing.event_type, outgoing.body.clone());
    let places = dispatch.is_journaled();
    loop {
        let (client, is_new) = match connection.take() {
            Some(client) => (client, false),
            None => match connect(dispatch, target, deadline).await {
                Ok(client) => (client, true),
                Err(tried) => return tried,
            },
        };
        let mut exchange = Box::pin(client.exchange(request, places));
        match deadline.race(exchange.as_mut()).await {
            Some(Exchanged::Answered(answered, client)) => {
                *connection = client;
                return Tried::Answered(answered);
            }
            // A kept-alive connection that the server closed meanwhile: as if it had not been there.
            Some(Exchanged::Stale(unsent)) if !is_new => request = *unsent,
            Some(Exchanged::Stale(_)) => {
                let reason = "the connection was closed before the request".to_owned();
                dispatch.ledger.borrow_mut().unconnected(reason);
                return Tried::Unconnected;
            }
            Some(Exchanged::Broken) => return Tried::Broken,
            None => {
                listen(dispatch, job, exchange);
                return Tried::TimedOut;
            }
        }
    }
}

async fn connect(
    dispatch: &Dispatch,
    target: &Target,
    deadline: &Deadline,
) -> Result<Box<Client>, Tried> {
    let connecting = pin!(Client::connect(target));
    match deadline.race(connecting).await {
        Some(Ok(client)) => {
            dispatch.connected();
            Ok(client)
        }
        Some(Err(error)) => {
            dispatch.ledger.borrow_mut().unconnected(error);
            Err(Tried::Unconnected)
        }
        None => {
            let mut ledger = dispatch.ledger.borrow_mut();
            ledger.unconnected("it took longer than the time-out".to_owned());
            Err(Tried::Unconnected)
        }
    }
}

/// The request may still be answered: its answer is noted, though it changes nothing any more.
fn listen<F>(dispatch: &Rc<Dispatch>, job: &Job, exchange: Pin<Box<F>>)
where
    F: Future<Output = Exchanged> + 'static,
{
    let (mut outgoing, cause) = (job.outgoing.clone(), job.cause);
    outgoing.body = bytes::Bytes::new();
    if !dispatch.begin_listening(outgoing.key) {
        dispatch.note(&outgoing, cause, None);
        return;
    }
    let dispatch = Rc::clone(dispatch);
    tokio::task::spawn_local(async move {
        let exchanged = tokio::select! {
            biased;
            exchanged = exchange => Some(exchanged),
            () = dispatch.hang_up.notified() => None,
            () = tokio::time::sleep(dispatch.timings.listen) => None,
        };
        let answered = match exchanged {
            Some(Exchanged::Answered(answered, _)) => Some(answered),
            _ => None,
        };
        if let Some(answered) = &answered {
            dispatch.ledger.borrow_mut().answered_late(answered);
        }
        dispatch.note(&outgoing, cause, answered.as_ref());
        dispatch.end_listening(outgoing.key);
    });
}
