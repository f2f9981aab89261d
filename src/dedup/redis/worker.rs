//! The thread that talks to Redis: one connection, whatever is queued in one pipeline.

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

use super::circuit::{FIRST_PAUSE, LONGEST_PAUSE, ProbeTimer};
use super::connection::{
    EpochHandshake, RESPONSE_TIMEOUT, RedisUnavailable, connect, send_pipeline,
};
use super::lease::{RedisContext, RedisMessage};
use super::protocol::{RENEWAL_INTERVAL, script_load_commands};

/// Messages that wait for the thread; more than that, and Redis counts as slow.
pub const QUEUE_CAPACITY: usize = 16_384;
/// The most commands in one pipeline.
const MAX_BATCH: usize = 512;
/// Pipelines on their way at a time.
const MAX_IN_FLIGHT: usize = 2;

/// What ends a conversation.
enum SessionEnd {
    /// Redis went away.
    Unavailable(RedisUnavailable),
    /// Nobody has anything to say any more.
    Done,
}

/// Everything the thread has.
pub struct RedisWorker {
    client: Client,
    context: Arc<RedisContext>,
    inbox: mpsc::Receiver<RedisMessage>,
    /// How long a question may take.
    timeout: Duration,
    /// What comes before the inbox.
    priority_queue: VecDeque<RedisMessage>,
    /// Whether the scripts have to be loaded.
    must_load_scripts: bool,
    /// What was said of Redis last.
    reported_available: Option<bool>,
}

/// All senders are gone.
struct InboxClosed;

impl RedisWorker {
    /// For `client`; ends when all senders are gone and what they said is done.
    pub fn new(
        client: Client,
        line: Arc<RedisContext>,
        inbox: mpsc::Receiver<RedisMessage>,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            context: line,
            inbox,
            timeout,
            priority_queue: VecDeque::new(),
            must_load_scripts: true,
            reported_available: None,
        }
    }

    /// The thread's life.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut is_first = true;
        loop {
            let client = self.client.clone();
            // It may have lost something, and so may this replica: before anything is asked.
            let greeting = EpochHandshake {
                is_first,
                begin_epoch: self.context.begin_epoch(),
                keep_epoch: self.context.protocol.keep_epoch(),
                run_id_key: self.context.protocol.run_id_key(),
            };
            let away = match self.wait_while_unavailable(connect(client, greeting)).await {
                Ok(Ok(connection)) => {
                    let since = Instant::now();
                    self.must_load_scripts = true;
                    self.reported_available.get_or_insert(true);
                    let end = self.serve(connection).await;
                    if since.elapsed() > RESPONSE_TIMEOUT {
                        pause = FIRST_PAUSE;
                    }
                    match end {
                        SessionEnd::Unavailable(away) => away,
                        SessionEnd::Done => return,
                    }
                }
                Ok(Err(away)) => away,
                Err(InboxClosed) => return,
            };
            // From now on events are decided without Redis.
            is_first = false;
            self.mark_unavailable(&away);
            if self.wait_while_unavailable(sleep(pause)).await.is_err() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn mark_unavailable(&mut self, why: &RedisUnavailable) {
        self.context.circuit_breaker.open();
        for message in std::mem::take(&mut self.priority_queue) {
            self.keep_for_reconnect(message);
        }
        if self.reported_available != Some(false) {
            let why = why.reason();
            warn!(
                why,
                "Redis cannot be asked: until it can, each replica recognises only what it stored itself"
            );
            self.reported_available = Some(false);
        }
    }

    fn mark_available(&mut self) {
        self.context.circuit_breaker.close();
        if self.reported_available == Some(false) {
            info!("Redis can be asked again");
        }
        self.reported_available = Some(true);
    }

    /// Waits for `what`, while there is no Redis to talk to.
    async fn wait_while_unavailable<T>(
        &mut self,
        what: impl Future<Output = T>,
    ) -> Result<T, InboxClosed> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                message = self.inbox.recv() => match message {
                    Some(message) if self.reported_available == Some(false) => self.keep_for_reconnect(message),
                    // Before the first attempt has ended: it may be there in a moment.
                    Some(message) => self.priority_queue.push_back(message),
                    None => return Err(InboxClosed),
                },
            }
        }
    }

    /// Keeps what Redis is to know once it is back, the latest of it; everything else has lost its sense by then.
    fn keep_for_reconnect(&mut self, message: RedisMessage) {
        let mut ending = match message {
            RedisMessage::End(ending) => ending,
            RedisMessage::Drained(drained) => return self.context.note_lost_drain(&drained),
            _ => return,
        };
        ending.is_resent = true;
        self.priority_queue.push_back(RedisMessage::End(ending));
        if self.priority_queue.len() > QUEUE_CAPACITY
            && let Some(RedisMessage::End(oldest)) = self.priority_queue.pop_front()
        {
            self.context.note_lost_end(&oldest);
        }
    }

    /// What is sent at once: the scripts where they are missing, an epoch or a probe where one is due, then the messages.
    /// Those that came too late are left out, there and here.
    fn build_pipeline(
        &mut self,
        messages: &mut Vec<RedisMessage>,
        load: bool,
        probe: bool,
    ) -> (Pipeline, usize) {
        let mut pipeline = Pipeline::with_capacity(messages.len() + 8);
        if load {
            for load in script_load_commands() {
                pipeline.add_command(load);
            }
        }
        if self.context.is_epoch_outdated() {
            pipeline.add_command(self.context.begin_epoch());
        }
        if probe {
            pipeline.add_command(self.context.protocol.probe());
        }
        let offset = pipeline.len();
        let now = Instant::now();
        let terms = &self.context.protocol;
        messages.retain(|message| {
            let command = match message {
                RedisMessage::Query(command, _) => command.clone(),
                RedisMessage::End(ending) => match terms.end(ending, now) {
                    Some(command) => command,
                    None => {
                        self.context.note_lost_end(ending);
                        return false;
                    }
                },
                RedisMessage::Drained(drained) => terms.mark_drained(drained),
                RedisMessage::Release(subject) => terms.release(subject),
                RedisMessage::Renew(subject, conflict) => terms.renew(subject, *conflict),
                RedisMessage::KeepEpoch => terms.keep_epoch(),
            };
            pipeline.add_command(command);
            true
        });
        (pipeline, offset)
    }

    /// Hands on the answers to a pipeline; `loaded`: with it the scripts were.
    fn handle_answers(
        &mut self,
        messages: Vec<RedisMessage>,
        loaded: bool,
        values: Vec<Value>,
    ) -> Result<(), RedisUnavailable> {
        let mut unloaded = Vec::new();
        let mut result = Ok(());
        for (message, value) in messages.into_iter().zip(values) {
            match (message, value) {
                (message, Value::ServerError(error)) if error.code() == "NOSCRIPT" && !loaded => {
                    unloaded.push(message);
                }
                (message, Value::ServerError(error)) => {
                    result = Err(RedisUnavailable::from_code(error.code()));
                    self.keep_for_reconnect(message);
                }
                // Nobody may wait for it any more.
                (RedisMessage::Query(_, reply), value) => drop(reply.send(value)),
                (RedisMessage::End(ending), Value::Int(0))
                    if ending.is_granted && !ending.is_resent =>
                {
                    self.context.errors.inc();
                }
                (RedisMessage::KeepEpoch, Value::Int(0)) => self.context.set_epoch_outdated(),
                _ => {}
            }
        }
        self.must_load_scripts |= !unloaded.is_empty();
        for message in unloaded.into_iter().rev() {
            self.priority_queue.push_front(message);
        }
        result
    }

    /// An answer took so long: is Redis to be asked again, after it was too slow?
    fn update_circuit_breaker(&mut self, took: Duration, probe: &mut ProbeTimer) {
        if self.context.circuit_breaker.is_closed() {
            return;
        }
        if !self.priority_queue.is_empty() {
            // First it has to know what it missed.
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
        let line = Arc::clone(&self.context);
        let mut flying = FuturesOrdered::new();
        let mut sent: VecDeque<(Vec<RedisMessage>, bool)> = VecDeque::new();
        let mut next = Vec::new();
        let mut renewal = interval(RENEWAL_INTERVAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unrenewed_for = Duration::ZERO;
        let mut probe = ProbeTimer::default();
        if !line.circuit_breaker.is_closed() {
            probe.schedule_now();
        }
        let mut closed = false;
        let end = loop {
            let room = flying.len() < MAX_IN_FLIGHT;
            let due = probe.is_due() || line.is_epoch_outdated();
            if room && (due || !next.is_empty() || !self.priority_queue.is_empty()) {
                while next.len() < MAX_BATCH
                    && let Some(message) = self.priority_queue.pop_front()
                {
                    next.push(message);
                }
                let load = std::mem::take(&mut self.must_load_scripts);
                let pipeline = self.build_pipeline(&mut next, load, probe.take_due());
                flying.push_back(send_pipeline(connection.clone(), pipeline));
                sent.push_back((std::mem::take(&mut next), load));
                continue;
            }
            if closed && flying.is_empty() {
                break SessionEnd::Done;
            }
            tokio::select! {
                // In this order, so that a pipeline is on its way before the next is made.
                biased;
                Some(answered) = flying.next(), if !flying.is_empty() => {
                    let (messages, loaded) = sent.pop_front().expect("one for each pipeline");
                    match answered {
                        Ok((values, took)) => {
                            let settled = self.handle_answers(messages, loaded, values);
                            if let Err(away) = settled {
                                break SessionEnd::Unavailable(away);
                            }
                            self.update_circuit_breaker(took, &mut probe);
                        }
                        Err(away) => {
                            sent.push_front((messages, loaded));
                            break SessionEnd::Unavailable(away);
                        }
                    }
                }
                () = line.circuit_breaker.wait_for_trip() => probe.schedule_now(),
                () = probe.wait_until_due() => {}
                _ = renewal.tick() => {
                    self.priority_queue.extend(line.take_due_renewals(unrenewed_for, Instant::now()));
                    unrenewed_for = RENEWAL_INTERVAL;
                    // Also to see, where nothing else is to be said, that Redis is still there.
                    self.priority_queue.push_back(RedisMessage::KeepEpoch);
                }
                count = self.inbox.recv_many(&mut next, MAX_BATCH), if room && !closed => {
                    closed = count == 0;
                }
            }
        };
        drop(flying);
        sent.into_iter()
            .flat_map(|(messages, _)| messages)
            .for_each(|message| self.keep_for_reconnect(message));
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::redis::tests::{end_without_redis, offline_context};

    #[test]
    fn what_redis_is_to_know_is_kept_the_latest_of_it() {
        let line = Arc::new(offline_context());
        let (_outbox, inbox) = mpsc::channel(1);
        let client = Client::open("redis://127.0.0.1:1").unwrap();
        let mut worker = RedisWorker::new(client, Arc::clone(&line), inbox, Duration::ZERO);
        let tokens: Vec<_> = (0..QUEUE_CAPACITY + 3).map(|_| line.next_token()).collect();
        for (number, token) in tokens.iter().enumerate() {
            assert!(!line.is_epoch_outdated() || number > QUEUE_CAPACITY);
            worker.keep_for_reconnect(RedisMessage::End(end_without_redis(*token)));
        }
        let kept = worker.priority_queue.iter().map(|message| match message {
            RedisMessage::End(ending) => ending.subject.token,
            _ => panic!("{message:?}"),
        });
        assert!(kept.eq(tokens.into_iter().skip(3)));
        assert!(line.is_epoch_outdated());
        assert_eq!(line.errors.get(), 0, "Redis had granted none of them");
        let _ = line.begin_epoch();
        assert!(!line.is_epoch_outdated());
    }
}
