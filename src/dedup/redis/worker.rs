//! The thread that talks to Redis: one connection, on which queued messages are sent in pipelines.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use redis::aio::MultiplexedConnection;
use redis::{Client, Pipeline, Value};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::circuit::{ProbeTimer, RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};
use super::connection::{
    EpochHandshake, RESPONSE_TIMEOUT, RedisUnavailable, connect, send_pipeline,
};
use super::lease::{RedisContext, RedisMessage};
use super::protocol::{ClaimGrant, RENEWAL_INTERVAL, script_load_commands};

/// Capacity of the message queue; when it is full, Redis counts as slow.
pub const QUEUE_CAPACITY: usize = 16_384;
/// Maximum number of messages in a pipeline.
const MAX_BATCH: usize = 512;
/// Maximum number of pipelines in flight.
const MAX_IN_FLIGHT: usize = 2;

/// End of a session on one connection.
enum SessionEnd {
    /// Redis became unavailable.
    Unavailable(RedisUnavailable),
    /// All senders are gone.
    Done,
}

/// State of the thread.
pub struct RedisWorker {
    client: Client,
    context: Arc<RedisContext>,
    inbox: mpsc::Receiver<RedisMessage>,
    /// Time in which Redis must answer a claim.
    timeout: Duration,
    /// Messages that precede the inbox: retries, renewals, and ends kept over an outage.
    priority_queue: VecDeque<RedisMessage>,
    must_load_scripts: bool,
    /// Availability as last logged.
    reported_available: Option<bool>,
}

/// Error: all senders are gone.
struct InboxClosed;

/// Messages of one pipeline.
struct MessageBatch {
    messages: Vec<RedisMessage>,
    /// The pipeline loads the scripts first.
    loads_scripts: bool,
}

impl RedisWorker {
    /// Creates a worker. It ends when all senders are gone and their messages are handled.
    pub fn new(
        client: Client,
        context: Arc<RedisContext>,
        inbox: mpsc::Receiver<RedisMessage>,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            context,
            inbox,
            timeout,
            priority_queue: VecDeque::new(),
            must_load_scripts: true,
            reported_available: None,
        }
    }

    /// Connects and serves until all senders are gone.
    pub async fn run(mut self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        let mut is_first = true;
        loop {
            let client = self.client.clone();
            // Before any claim: Redis, or this replica, may have lost data meanwhile.
            let handshake = EpochHandshake {
                is_first,
                begin_epoch: self.context.begin_epoch(),
                keep_epoch: self.context.protocol.keep_epoch(),
                run_id_key: self.context.protocol.run_id_key(),
            };
            let reason = match self
                .wait_while_unavailable(connect(client, handshake))
                .await
            {
                Ok(Ok(connection)) => {
                    let connected_at = Instant::now();
                    self.must_load_scripts = true;
                    self.reported_available.get_or_insert(true);
                    let end = self.serve(connection).await;
                    if connected_at.elapsed() > RESPONSE_TIMEOUT {
                        pause = RECONNECT_PAUSE_MIN;
                    }
                    match end {
                        SessionEnd::Unavailable(reason) => reason,
                        SessionEnd::Done => return,
                    }
                }
                Ok(Err(reason)) => reason,
                Err(InboxClosed) => return,
            };
            // From now on events are decided without Redis.
            is_first = false;
            self.mark_unavailable(&reason);
            if self.wait_while_unavailable(sleep(pause)).await.is_err() {
                return;
            }
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
    }

    fn mark_unavailable(&mut self, reason: &RedisUnavailable) {
        self.context.circuit_breaker.open();
        for message in std::mem::take(&mut self.priority_queue) {
            self.keep_for_reconnect(message);
        }
        if self.reported_available != Some(false) {
            warn!(
                why = reason.reason(),
                "Redis is unavailable: until it is back, each replica recognizes only duplicates of \
                 events that it stored itself"
            );
            self.reported_available = Some(false);
        }
    }

    fn mark_available(&mut self) {
        self.context.circuit_breaker.close();
        if self.reported_available == Some(false) {
            info!("Redis is available again");
        }
        self.reported_available = Some(true);
    }

    /// Waits for a future while Redis is unavailable, and handles messages meanwhile.
    async fn wait_while_unavailable<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<T, InboxClosed> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                message = self.inbox.recv() => match message {
                    Some(message) if self.reported_available == Some(false) => {
                        self.keep_for_reconnect(message);
                    }
                    // The first attempt is still under way: Redis may be there in a moment.
                    Some(message) => self.priority_queue.push_back(message),
                    None => return Err(InboxClosed),
                },
            }
        }
    }

    /// Keeps the end of a claim for the next connection, only the latest ones if there are too
    /// many. Other messages are dropped: they are pointless by then.
    fn keep_for_reconnect(&mut self, message: RedisMessage) {
        let mut end = match message {
            RedisMessage::End(end) => end,
            RedisMessage::Drained(drained) => return self.context.note_lost_drain(&drained),
            _ => return,
        };
        end.is_resent = true;
        self.priority_queue.push_back(RedisMessage::End(end));
        if self.priority_queue.len() > QUEUE_CAPACITY
            && let Some(RedisMessage::End(oldest)) = self.priority_queue.pop_front()
        {
            self.context.note_lost_end(&oldest);
        }
    }

    /// Builds a pipeline: the scripts if they are missing, an epoch or a probe if one is due, then
    /// the messages. Removes messages that are too late. Also returns the number of commands before
    /// the messages.
    fn build_pipeline(
        &mut self,
        batch: &mut MessageBatch,
        is_probe_due: bool,
    ) -> (Pipeline, usize) {
        let mut pipeline = Pipeline::with_capacity(batch.messages.len() + 8);
        if batch.loads_scripts {
            for command in script_load_commands() {
                pipeline.add_command(command);
            }
        }
        if self.context.is_epoch_outdated() {
            pipeline.add_command(self.context.begin_epoch());
        }
        if is_probe_due {
            pipeline.add_command(self.context.protocol.probe());
        }
        let offset = pipeline.len();
        let now = Instant::now();
        let protocol = &self.context.protocol;
        batch.messages.retain(|message| {
            let command = match message {
                RedisMessage::Query(command, _) => command.clone(),
                RedisMessage::End(end) => match protocol.end(end, now) {
                    Some(command) => command,
                    None => {
                        self.context.note_lost_end(end);
                        return false;
                    }
                },
                RedisMessage::Drained(drained) => protocol.mark_drained(drained),
                RedisMessage::Release(subject) => protocol.release(subject),
                RedisMessage::Renew(renewal) => protocol.renew(renewal),
                RedisMessage::KeepEpoch => protocol.keep_epoch(),
            };
            pipeline.add_command(command);
            true
        });
        (pipeline, offset)
    }

    /// Handles the answers to a pipeline.
    fn handle_answers(
        &mut self,
        sent: MessageBatch,
        values: Vec<Value>,
    ) -> Result<(), RedisUnavailable> {
        let mut without_script = Vec::new();
        let mut result = Ok(());
        for (message, value) in sent.messages.into_iter().zip(values) {
            match (message, value) {
                (message, Value::ServerError(error))
                    if error.code() == "NOSCRIPT" && !sent.loads_scripts =>
                {
                    without_script.push(message);
                }
                (message, Value::ServerError(error)) => {
                    result = Err(RedisUnavailable::from_code(error.code()));
                    self.keep_for_reconnect(message);
                }
                // The caller may have stopped waiting.
                (RedisMessage::Query(_, reply), value) => drop(reply.send(value)),
                (RedisMessage::End(end), Value::Int(0))
                    if end.grant == ClaimGrant::Granted && !end.is_resent =>
                {
                    self.context.errors.inc();
                }
                (RedisMessage::KeepEpoch, Value::Int(0)) => self.context.set_epoch_outdated(),
                _ => {}
            }
        }
        self.must_load_scripts |= !without_script.is_empty();
        for message in without_script.into_iter().rev() {
            self.priority_queue.push_front(message);
        }
        result
    }

    /// Closes the circuit breaker again if an answer took at most the timeout.
    fn update_circuit_breaker(&mut self, took: Duration, probe: &mut ProbeTimer) {
        if self.context.circuit_breaker.is_closed() {
            return;
        }
        if !self.priority_queue.is_empty() {
            // First Redis must be told what it missed.
            probe.schedule_now();
        } else if took <= self.timeout {
            probe.cancel();
            self.mark_available();
        } else {
            self.mark_unavailable(&RedisUnavailable::too_slow());
            probe.schedule_later();
        }
    }

    async fn serve(&mut self, connection: MultiplexedConnection) -> SessionEnd {
        let context = Arc::clone(&self.context);
        let mut in_flight = FuturesOrdered::new();
        let mut sent: VecDeque<MessageBatch> = VecDeque::new();
        let mut next = Vec::new();
        let mut renewal = interval(RENEWAL_INTERVAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unrenewed_for = Duration::ZERO;
        let mut probe = ProbeTimer::default();
        if !context.circuit_breaker.is_closed() {
            probe.schedule_now();
        }
        let mut closed = false;
        let end = loop {
            let has_room = in_flight.len() < MAX_IN_FLIGHT;
            let due = probe.is_due() || context.is_epoch_outdated();
            if has_room && (due || !next.is_empty() || !self.priority_queue.is_empty()) {
                while next.len() < MAX_BATCH
                    && let Some(message) = self.priority_queue.pop_front()
                {
                    next.push(message);
                }
                let mut batch = MessageBatch {
                    messages: std::mem::take(&mut next),
                    loads_scripts: std::mem::take(&mut self.must_load_scripts),
                };
                let pipeline = self.build_pipeline(&mut batch, probe.take_due());
                in_flight.push_back(send_pipeline(connection.clone(), pipeline));
                sent.push_back(batch);
                continue;
            }
            if closed && in_flight.is_empty() {
                break SessionEnd::Done;
            }
            tokio::select! {
                // In this order, so that a pipeline is sent before the next is built.
                biased;
                Some(result) = in_flight.next(), if !in_flight.is_empty() => {
                    let batch = sent.pop_front().expect("a batch for each pipeline");
                    match result {
                        Ok((values, took)) => {
                            if let Err(reason) = self.handle_answers(batch, values) {
                                break SessionEnd::Unavailable(reason);
                            }
                            self.update_circuit_breaker(took, &mut probe);
                        }
                        Err(reason) => {
                            sent.push_front(batch);
                            break SessionEnd::Unavailable(reason);
                        }
                    }
                }
                () = context.circuit_breaker.wait_for_trip() => probe.schedule_now(),
                () = probe.wait_until_due() => {}
                _ = renewal.tick() => {
                    let renewals = context.take_due_renewals(unrenewed_for, Instant::now());
                    self.priority_queue.extend(renewals);
                    unrenewed_for = RENEWAL_INTERVAL;
                    // On an idle connection this also tests that Redis is still there.
                    self.priority_queue.push_back(RedisMessage::KeepEpoch);
                }
                count = self.inbox.recv_many(&mut next, MAX_BATCH), if has_room && !closed => {
                    closed = count == 0;
                }
            }
        };
        drop(in_flight);
        sent.into_iter()
            .flat_map(|batch| batch.messages)
            .for_each(|message| self.keep_for_reconnect(message));
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::redis::tests::{end_without_redis, offline_context};

    #[test]
    fn the_latest_ends_are_kept_for_reconnecting() {
        let context = Arc::new(offline_context());
        let (_outbox, inbox) = mpsc::channel(1);
        let client = Client::open("redis://127.0.0.1:1").unwrap();
        let mut worker = RedisWorker::new(client, Arc::clone(&context), inbox, Duration::ZERO);
        let tokens: Vec<_> = (0..QUEUE_CAPACITY + 3)
            .map(|_| context.next_token())
            .collect();
        for (number, token) in tokens.iter().enumerate() {
            assert!(!context.is_epoch_outdated() || number > QUEUE_CAPACITY);
            worker.keep_for_reconnect(RedisMessage::End(end_without_redis(*token)));
        }
        let kept = worker.priority_queue.iter().map(|message| match message {
            RedisMessage::End(end) => end.subject.token,
            _ => panic!("{message:?}"),
        });
        assert!(kept.eq(tokens.into_iter().skip(3)));
        assert!(context.is_epoch_outdated());
        assert_eq!(context.errors.get(), 0, "none of them was granted");
        let _ = context.begin_epoch();
        assert!(!context.is_epoch_outdated());
    }
}
