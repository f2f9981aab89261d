//! A value that goes back to what it was is published, whatever Redis has missed meanwhile.

use super::*;

/// What these tests tell: an occupancy, always of the same (type, space, timestamp), each under an id of its own.
struct ValueScenario {
    topics: TestTopics,
    second: AtomicU32,
}

impl ValueScenario {
    fn new() -> Self {
        Self {
            topics: fresh_topics(),
            second: AtomicU32::new(1),
        }
    }

    fn replicas<const N: usize>(&self, server: &RedisServer) -> [Replica; N] {
        Replica::start_many(&drop_settings(), &server.url(), &self.topics)
    }

    /// The verdict on a value.
    async fn verdict(&self, replica: &Replica, value: u64) -> (DedupVerdict, Option<Claim>) {
        let id = ksuid(self.second.fetch_add(1, Ordering::Relaxed), 1);
        replica.verdict(&facts(&id, Some(1), value, 1)).await
    }

    /// The claim on a value that is published.
    async fn claim(&self, replica: &Replica, value: u64) -> Claim {
        let (verdict, claim) = self.verdict(replica, value).await;
        claim.unwrap_or_else(|| panic!("{value} is dropped: {verdict:?}"))
    }

    /// A value that is published and stored, and Redis knows it.
    async fn store(&self, replica: &Replica, value: u64) {
        let claim = self.claim(replica, value).await;
        commit(claim);
        replica.shared.flush(GENEROUS_TIMEOUT).await;
    }

    /// The claim of a replica that is cut off from Redis, on a value.
    async fn claim_alone(&self, replica: &Replica, value: u64) -> Claim {
        replica.shared.context.circuit_breaker.open();
        let claim = self.claim(replica, value).await;
        replica.shared.context.circuit_breaker.close();
        claim
    }

    /// The current value is relied on again: nothing here is published for another reason.
    async fn assert_repeat(&self, replica: &Replica, value: u64) {
        let (verdict, _) = self.verdict(replica, value).await;
        assert_eq!(
            verdict,
            DedupVerdict::Duplicate(DuplicateKind::Repeat),
            "{value}"
        );
    }
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_until_redis_is_asked(replica: &Replica) {
    wait_until("Redis is asked again", || {
        replica.shared.context.circuit_breaker.is_closed()
    })
    .await;
}

/// A claim that lost its connection may be decided before the worker has opened the circuit.
async fn wait_until_redis_is_given_up(replica: &Replica) {
    wait_until("the replica works without Redis", || {
        !replica.shared.context.circuit_breaker.is_closed()
    })
    .await;
}

#[test]
fn a_release_for_certain_leaves_the_value_as_it_was() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        story.assert_repeat(&other, 4).await;
        drop(story.claim(&other, 5).await);
        other.shared.flush(GENEROUS_TIMEOUT).await;
        story.assert_repeat(&one, 4).await;
        story.assert_repeat(&other, 4).await;
    });
}

#[test]
fn after_an_unknown_end_nothing_is_a_repeat() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        for alone in [false, true] {
            story.store(&one, 4).await;
            let claim = match alone {
                false => story.claim(&other, 5).await,
                true => story.claim_alone(&other, 5).await,
            };
            claim.release_in_doubt();
            other.shared.flush(GENEROUS_TIMEOUT).await;
            // And for a while: the 5 may still be on its way.
            for _ in 0..3 {
                story.store(&one, 4).await;
            }
        }
    });
    // What replaces nothing leaves no doubt.
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        let earlier = ksuid(0, 1);
        let (verdict, claim) = other.verdict(&facts(&earlier, Some(1), 5, 1)).await;
        assert!(matches!(verdict, DedupVerdict::Publish(marks) if marks.stale));
        claim.unwrap().release_in_doubt();
        other.shared.flush(GENEROUS_TIMEOUT).await;
        story.assert_repeat(&one, 4).await;
    });
}

#[test]
fn a_holder_that_died_may_have_stored() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        let stored = story.claim(&other, 5).await;
        other.shared.context.stop_renewals();
        std::mem::forget(stored);
        let since = Instant::now();
        story.store(&one, 4).await;
        assert!(since.elapsed() > Duration::from_millis(1500), "it was held");
        story.store(&one, 4).await;
    });
}

#[test]
fn a_commit_that_was_lost() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        story.assert_repeat(&other, 4).await;
        // A full queue.
        let lossy = Replica {
            shared: Arc::new(RedisStore {
                context: Arc::clone(&other.shared.context),
                outbox: mpsc::channel(1).0,
                timeout: GENEROUS_TIMEOUT,
            }),
            memory: Arc::clone(&other.memory),
            errors: other.errors.clone(),
        };
        commit(story.claim(&lossy, 5).await);
        other.shared.flush(GENEROUS_TIMEOUT).await;
        story.store(&one, 4).await;
        story.assert_repeat(&one, 4).await;
    });
}

#[test]
fn a_spool_that_lost_something() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        story.assert_repeat(&other, 4).await;
        one.shared.invalidate_spooled();
        wait_until("an epoch began", || !one.shared.context.is_epoch_outdated()).await;
        one.shared.flush(GENEROUS_TIMEOUT).await;
        story.store(&other, 4).await;
        story.assert_repeat(&one, 4).await;
    });
}

#[test]
fn what_is_told_in_another_order_than_it_was_stored() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    for tellers in 1..4 {
        let story = ValueScenario::new();
        let [one, two, three, watcher] = story.replicas(&server);
        runtime().block_on(async {
            story.store(&watcher, 4).await;
            let claims = [
                story.claim_alone(&one, 5).await,
                story.claim_alone(&two, 6).await,
                story.claim_alone(&three, 7).await,
            ];
            for (replica, claim) in [&one, &two, &three].into_iter().zip(claims).take(tellers) {
                commit(claim);
                replica.shared.flush(GENEROUS_TIMEOUT).await;
            }
            // Whichever of them Kafka has last.
            let (verdict, claim) = story.verdict(&watcher, 4 + tellers as u64).await;
            assert!(claim.is_some(), "{tellers}: {verdict:?}");
            commit(claim.unwrap());
            watcher.shared.flush(GENEROUS_TIMEOUT).await;
            story.assert_repeat(&watcher, 4 + tellers as u64).await;
        });
    }
}

#[test]
fn what_is_stored_without_a_hold_while_another_has_one() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other, watcher] = story.replicas(&server);
    runtime().block_on(async {
        for first in [true, false] {
            story.store(&one, 4).await;
            let alone = story.claim_alone(&other, 6).await;
            let held = story.claim(&one, 5).await;
            let claims = [(&other, alone), (&one, held)];
            let mut claims = if first {
                claims.into()
            } else {
                claims.into_iter().rev().collect::<Vec<_>>()
            };
            for (replica, claim) in claims.drain(..) {
                commit(claim);
                replica.shared.flush(GENEROUS_TIMEOUT).await;
            }
            story.store(&watcher, if first { 5 } else { 6 }).await;
        }
    });
    // A release does not bring back what was interfered with.
    let story = ValueScenario::new();
    let [one, other, watcher] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        let alone = story.claim_alone(&other, 6).await;
        let held = story.claim(&one, 5).await;
        commit(alone);
        other.shared.flush(GENEROUS_TIMEOUT).await;
        drop(held);
        one.shared.flush(GENEROUS_TIMEOUT).await;
        story.store(&watcher, 4).await;
    });
}

#[test]
fn a_redis_that_comes_back_with_an_older_snapshot() {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        server.save();
        story.store(&other, 5).await;
        server.kill();
        for replica in [&one, &other] {
            drop(story.claim(replica, 9).await);
            wait_until_redis_is_given_up(replica).await;
        }
        server.restart();
        let client = Client::open(server.url()).unwrap();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
            .arg("*:*:c*")
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        assert_eq!(keys.len(), 1, "it has the snapshot");
        for replica in [&one, &other] {
            wait_until_redis_is_asked(replica).await;
            // Not only because it was away a moment ago.
            wait_until("it is sure", || {
                !replica.shared.context.circuit_breaker.is_recovering()
            })
            .await;
        }
        story.store(&one, 4).await;
        story.assert_repeat(&other, 4).await;
    });
}

/// Redis stands still, or is restarted, and both replicas are without it; the second to come back has yet to tell what it
/// stored.
fn assert_first_to_reconnect_relies_on_nothing(
    away: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
) {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        story.assert_repeat(&other, 4).await;
        server.save();
        away(&mut server);
        for replica in [&one, &other] {
            drop(story.claim(replica, 9).await);
            wait_until_redis_is_given_up(replica).await;
        }
        let stored = story.claim(&other, 5).await;
        assert!(!one.shared.context.circuit_breaker.is_closed());
        back(&mut server);
        wait_until_redis_is_asked(&one).await;
        let errors = one.errors.get();
        story.store(&one, 4).await;
        story.store(&one, 4).await;
        assert_eq!(one.errors.get(), errors, "Redis said so");
        commit(stored);
        wait_until_redis_is_asked(&other).await;
        other.shared.flush(GENEROUS_TIMEOUT).await;
        wait_until("it is sure", || {
            !one.shared.context.circuit_breaker.is_recovering()
        })
        .await;
        story.store(&one, 4).await;
    });
}

#[test]
fn who_comes_back_first_after_redis_stood_still() {
    assert_first_to_reconnect_relies_on_nothing(|server| server.pause(), |server| server.resume());
}

#[test]
fn who_comes_back_first_after_redis_was_restarted() {
    assert_first_to_reconnect_relies_on_nothing(RedisServer::kill, RedisServer::restart);
}

#[test]
fn nothing_is_held_that_was_never_granted() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one, other] = story.replicas(&server);
    runtime().block_on(async {
        let alone = story.claim_alone(&one, 5).await;
        let renewals = one
            .shared
            .context
            .take_due_renewals(Duration::ZERO, Instant::now());
        assert_eq!(renewals.len(), 1);
        for renewal in renewals {
            one.shared.outbox.send(renewal).await.unwrap();
        }
        one.shared.flush(GENEROUS_TIMEOUT).await;
        let client = Client::open(server.url()).unwrap();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
            .arg("*:h*")
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        assert_eq!(keys.len(), 0);
        story.store(&other, 4).await;
        commit(alone);
        one.shared.flush(GENEROUS_TIMEOUT).await;
        story.store(&other, 4).await;
    });
}

/// Of this cluster, prefix and topics, and of no others.
#[test]
fn bridges_of_other_topics_never_meet() {
    let topics = fresh_topics();
    let mut others = topics.clone();
    others[9] += "x";
    let of = |prefix: &str, topics: &TestTopics| {
        let terms = RedisProtocol::new(&drop_settings(), prefix, topics);
        terms.begin_epoch(&[]).get_packed_command()
    };
    assert_eq!(of("a", &topics), of("a", &topics));
    assert_ne!(of("a", &topics), of("a", &others));
    assert_ne!(of("a", &topics), of("b", &topics));
}

#[test]
fn a_replica_that_has_just_started_believes_what_is_there() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one] = story.replicas(&server);
    runtime().block_on(story.store(&one, 4));
    let [started] = story.replicas(&server);
    runtime().block_on(async {
        story.assert_repeat(&started, 4).await;
        story.assert_repeat(&one, 4).await;
    });
}

#[test]
fn a_replica_that_has_just_started_does_not_believe_a_snapshot() {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let story = ValueScenario::new();
    let [one] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&one, 4).await;
        server.save();
        story.store(&one, 5).await;
    });
    drop(one);
    server.kill();
    server.restart();
    let [started] = story.replicas(&server);
    runtime().block_on(async {
        story.store(&started, 4).await;
        story.assert_repeat(&started, 4).await;
    });
}
