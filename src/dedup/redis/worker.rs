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

use super::circuit::{FIRST_PAUSE, LONGEST_PAUSE, Probe};
use super::connection::{Away, Greeting, PATIENCE, ask, connect};
use super::lease::{Line, Message};
use super::wire::{RENEWAL, scripts};

/// Messages that wait for the thread; more than that, and Redis counts as slow.
pub const QUEUE: usize = 16_384;
/// The most commands in one pipeline.
const BATCH: usize = 512;
/// Pipelines on their way at a time.
const IN_FLIGHT: usize = 2;

/// What ends a conversation.
enum End {
    /// Redis went away.
    Away(Away),
    /// Nobody has anything to say any more.
    Done,
}

/// Everything the thread has.
pub struct Worker {
    client: Client,
    line: Arc<Line>,
    inbox: mpsc::Receiver<Message>,
    /// How long a question may take.
    timeout: Duration,
    /// What comes before the inbox.
    first: VecDeque<Message>,
    /// Whether the scripts have to be loaded.
    load: bool,
    /// What was said of Redis last.
    told: Option<bool>,
}

/// All senders are gone.
struct Closed;

impl Worker {
    /// For `client`; ends when all senders are gone and what they said is done.
    pub fn new(
        client: Client,
        line: Arc<Line>,
        inbox: mpsc::Receiver<Message>,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            line,
            inbox,
            timeout,
            first: VecDeque::new(),
            load: true,
            told: None,
        }
    }

    /// The thread's life.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut is_first = true;
        loop {
            let client = self.client.clone();
            // It may have lost something, and so may this replica: before anything is asked.
            let greeting = Greeting {
                is_first,
                begin: self.line.new_epoch(),
                keep: self.line.terms.keep_epoch(),
                server: self.line.terms.server(),
            };
            let away = match self.meanwhile(connect(client, greeting)).await {
                Ok(Ok(connection)) => {
                    let since = Instant::now();
                    self.load = true;
                    self.told.get_or_insert(true);
                    let end = self.serve(connection).await;
                    if since.elapsed() > PATIENCE {
                        pause = FIRST_PAUSE;
                    }
                    match end {
                        End::Away(away) => away,
                        End::Done => return,
                    }
                }
                Ok(Err(away)) => away,
                Err(Closed) => return,
            };
            // From now on events are decided without Redis.
            is_first = false;
            self.away(&away);
            if self.meanwhile(sleep(pause)).await.is_err() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn away(&mut self, why: &Away) {
        self.line.circuit.open();
        for message in std::mem::take(&mut self.first) {
            self.keep(message);
        }
        if self.told != Some(false) {
            let why = why.why();
            warn!(
                why,
                "Redis cannot be asked: until it can, each replica recognises only what it stored itself"
            );
            self.told = Some(false);
        }
    }

    fn back(&mut self) {
        self.line.circuit.close();
        if self.told == Some(false) {
            info!("Redis can be asked again");
        }
        self.told = Some(true);
    }

    /// Waits for `what`, while there is no Redis to talk to.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Closed> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                message = self.inbox.recv() => match message {
                    Some(message) if self.told == Some(false) => self.keep(message),
                    // Before the first attempt has ended: it may be there in a moment.
                    Some(message) => self.first.push_back(message),
                    None => return Err(Closed),
                },
            }
        }
    }

    /// Keeps what Redis is to know once it is back, the latest of it; everything else has lost its sense by then.
    fn keep(&mut self, message: Message) {
        let mut ending = match message {
            Message::End(ending) => ending,
            Message::Drained(drained) => return self.line.forget_drained(&drained),
            _ => return,
        };
        ending.again = true;
        self.first.push_back(Message::End(ending));
        if self.first.len() > QUEUE
            && let Some(Message::End(oldest)) = self.first.pop_front()
        {
            self.line.forget(&oldest);
        }
    }

    /// What is sent at once: the scripts where they are missing, an epoch or a probe where one is due, then the messages.
    /// Those that came too late are left out, there and here.
    fn pipeline(
        &mut self,
        messages: &mut Vec<Message>,
        load: bool,
        probe: bool,
    ) -> (Pipeline, usize) {
        let mut pipeline = Pipeline::with_capacity(messages.len() + 8);
        if load {
            for load in scripts() {
                pipeline.add_command(load);
            }
        }
        if self.line.has_forgotten() {
            pipeline.add_command(self.line.new_epoch());
        }
        if probe {
            pipeline.add_command(self.line.terms.probe());
        }
        let offset = pipeline.len();
        let now = Instant::now();
        let terms = &self.line.terms;
        messages.retain(|message| {
            let command = match message {
                Message::Ask(command, _) => command.clone(),
                Message::End(ending) => match terms.end(ending, now) {
                    Some(command) => command,
                    None => {
                        self.line.forget(ending);
                        return false;
                    }
                },
                Message::Drained(drained) => terms.drained(drained),
                Message::Release(subject) => terms.release(subject),
                Message::Renew(subject, conflict) => terms.renew(subject, *conflict),
                Message::Keep => terms.keep_epoch(),
            };
            pipeline.add_command(command);
            true
        });
        (pipeline, offset)
    }

    /// Hands on the answers to a pipeline; `loaded`: with it the scripts were.
    fn settle(
        &mut self,
        messages: Vec<Message>,
        loaded: bool,
        values: Vec<Value>,
    ) -> Result<(), Away> {
        let mut unloaded = Vec::new();
        let mut result = Ok(());
        for (message, value) in messages.into_iter().zip(values) {
            match (message, value) {
                (message, Value::ServerError(error)) if error.code() == "NOSCRIPT" && !loaded => {
                    unloaded.push(message);
                }
                (message, Value::ServerError(error)) => {
                    result = Err(Away::code(error.code()));
                    self.keep(message);
                }
                // Nobody may wait for it any more.
                (Message::Ask(_, reply), value) => drop(reply.send(value)),
                (Message::End(ending), Value::Int(0)) if ending.granted && !ending.again => {
                    self.line.errors.inc();
                }
                (Message::Keep, Value::Int(0)) => self.line.set_forgotten(),
                _ => {}
            }
        }
        self.load |= !unloaded.is_empty();
        for message in unloaded.into_iter().rev() {
            self.first.push_front(message);
        }
        result
    }

    /// An answer took so long: is Redis to be asked again, after it was too slow?
    fn judge(&mut self, took: Duration, probe: &mut Probe) {
        if self.line.circuit.is_closed() {
            return;
        }
        if !self.first.is_empty() {
            // First it has to know what it missed.
            probe.now();
        } else if took <= self.timeout {
            probe.never();
            self.back();
        } else {
            self.away(&Away::slow());
            probe.later();
        }
    }

    async fn serve(&mut self, connection: MultiplexedConnection) -> End {
        let line = Arc::clone(&self.line);
        let mut flying = FuturesOrdered::new();
        let mut sent: VecDeque<(Vec<Message>, bool)> = VecDeque::new();
        let mut next = Vec::new();
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unrenewed_for = Duration::ZERO;
        let mut probe = Probe::default();
        if !line.circuit.is_closed() {
            probe.now();
        }
        let mut closed = false;
        let end = loop {
            let room = flying.len() < IN_FLIGHT;
            let due = probe.is_due() || line.has_forgotten();
            if room && (due || !next.is_empty() || !self.first.is_empty()) {
                while next.len() < BATCH
                    && let Some(message) = self.first.pop_front()
                {
                    next.push(message);
                }
                let load = std::mem::take(&mut self.load);
                let pipeline = self.pipeline(&mut next, load, probe.take());
                flying.push_back(ask(connection.clone(), pipeline));
                sent.push_back((std::mem::take(&mut next), load));
                continue;
            }
            if closed && flying.is_empty() {
                break End::Done;
            }
            tokio::select! {
                // In this order, so that a pipeline is on its way before the next is made.
                biased;
                Some(answered) = flying.next(), if !flying.is_empty() => {
                    let (messages, loaded) = sent.pop_front().expect("one for each pipeline");
                    match answered {
                        Ok((values, took)) => {
                            let settled = self.settle(messages, loaded, values);
                            if let Err(away) = settled {
                                break End::Away(away);
                            }
                            self.judge(took, &mut probe);
                        }
                        Err(away) => {
                            sent.push_front((messages, loaded));
                            break End::Away(away);
                        }
                    }
                }
                () = line.circuit.tripped() => probe.now(),
                () = probe.wait() => {}
                _ = renewal.tick() => {
                    self.first.extend(line.renewals(unrenewed_for, Instant::now()));
                    unrenewed_for = RENEWAL;
                    // Also to see, where nothing else is to be said, that Redis is still there.
                    self.first.push_back(Message::Keep);
                }
                count = self.inbox.recv_many(&mut next, BATCH), if room && !closed => {
                    closed = count == 0;
                }
            }
        };
        drop(flying);
        sent.into_iter()
            .flat_map(|(messages, _)| messages)
            .for_each(|message| self.keep(message));
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::redis::tests::{line, unheld};

    #[test]
    fn what_redis_is_to_know_is_kept_the_latest_of_it() {
        let line = Arc::new(line());
        let (_outbox, inbox) = mpsc::channel(1);
        let client = Client::open("redis://127.0.0.1:1").unwrap();
        let mut worker = Worker::new(client, Arc::clone(&line), inbox, Duration::ZERO);
        let tokens: Vec<_> = (0..QUEUE + 3).map(|_| line.token()).collect();
        for (number, token) in tokens.iter().enumerate() {
            assert!(!line.has_forgotten() || number > QUEUE);
            worker.keep(Message::End(unheld(*token)));
        }
        let kept = worker.first.iter().map(|message| match message {
            Message::End(ending) => ending.subject.token,
            _ => panic!("{message:?}"),
        });
        assert!(kept.eq(tokens.into_iter().skip(3)));
        assert!(line.has_forgotten());
        assert_eq!(line.errors.get(), 0, "Redis had granted none of them");
        let _ = line.new_epoch();
        assert!(!line.has_forgotten());
    }
}
