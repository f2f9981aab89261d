//! A value that reverts to the previous one is published, whatever Redis has missed meanwhile.

use super::*;

/// Successive values of one (type, space, timestamp), each under an id of its own.
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

    /// Returns the verdict on a value.
    async fn verdict(&self, replica: &Replica, value: u64) -> (DedupVerdict, Option<Claim>) {
        let id = ksuid(self.second.fetch_add(1, Ordering::Relaxed), 1);
        replica.verdict(&facts(&id, Some(1), value, 1)).await
    }

    /// Claims a value, which must be published.
    async fn claim(&self, replica: &Replica, value: u64) -> Claim {
        let (verdict, claim) = self.verdict(replica, value).await;
        claim.unwrap_or_else(|| panic!("{value} was dropped: {verdict:?}"))
    }

    /// Publishes a value, and waits until Redis knows it.
    async fn store(&self, replica: &Replica, value: u64) {
        let claim = self.claim(replica, value).await;
        commit(claim);
        replica.redis.flush(GENEROUS_TIMEOUT).await;
    }

    /// Claims a value on a replica that is cut off from Redis.
    async fn claim_alone(&self, replica: &Replica, value: u64) -> Claim {
        replica.redis.context.circuit_breaker.open();
        let claim = self.claim(replica, value).await;
        replica.redis.context.circuit_breaker.close();
        claim
    }

    /// Asserts that the current value is trusted again, so that nothing here is published for
    /// another reason.
    async fn assert_repeat(&self, replica: &Replica, value: u64) {
        let (verdict, _) = self.verdict(replica, value).await;
        assert_eq!(
            verdict,
            DedupVerdict::Duplicate(DuplicateKind::Repeat),
            "{value}"
        );
    }
}

async fn wait_until(condition: &str, is_met: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_met() {
        assert!(since.elapsed() < Duration::from_secs(20), "{condition}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_until_redis_is_asked(replica: &Replica) {
    wait_until("Redis is asked again", || {
        replica.redis.context.circuit_breaker.is_closed()
    })
    .await;
}

/// A claim that lost its connection may be decided before the worker has opened the circuit.
async fn wait_until_redis_is_given_up(replica: &Replica) {
    wait_until("the replica works without Redis", || {
        !replica.redis.context.circuit_breaker.is_closed()
    })
    .await;
}

#[test]
fn a_release_without_storing_restores_the_value() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
        drop(scenario.claim(&other, 5).await);
        other.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.assert_repeat(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
    });
}

#[test]
fn after_an_end_in_doubt_nothing_is_a_repeat() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        for alone in [false, true] {
            scenario.store(&one, 4).await;
            let claim = if alone {
                scenario.claim_alone(&other, 5).await
            } else {
                scenario.claim(&other, 5).await
            };
            claim.release_in_doubt();
            other.redis.flush(GENEROUS_TIMEOUT).await;
            // For a while: the 5 may still be in flight.
            for _ in 0..3 {
                scenario.store(&one, 4).await;
            }
        }
    });
    // An event in doubt that replaces nothing changes nothing.
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        let earlier = ksuid(0, 1);
        let (verdict, claim) = other.verdict(&facts(&earlier, Some(1), 5, 1)).await;
        assert!(matches!(verdict, DedupVerdict::Publish(marks) if marks.stale));
        claim.unwrap().release_in_doubt();
        other.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.assert_repeat(&one, 4).await;
    });
}

#[test]
fn a_holder_that_died_may_have_stored() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        let stored = scenario.claim(&other, 5).await;
        other.redis.context.stop_renewals();
        std::mem::forget(stored);
        let since = Instant::now();
        scenario.store(&one, 4).await;
        assert!(since.elapsed() > Duration::from_millis(1500), "it was held");
        scenario.store(&one, 4).await;
    });
}

#[test]
fn after_a_lost_commit_values_are_not_trusted() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
        // A full queue.
        let lossy = Replica {
            redis: Arc::new(RedisStore {
                context: Arc::clone(&other.redis.context),
                outbox: mpsc::channel(1).0,
                timeout: GENEROUS_TIMEOUT,
            }),
            memory: Arc::clone(&other.memory),
            errors: other.errors.clone(),
        };
        commit(scenario.claim(&lossy, 5).await);
        other.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&one, 4).await;
    });
}

#[test]
fn after_a_loss_in_the_spool_values_are_not_trusted() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
        one.redis.invalidate_spooled();
        wait_until("an epoch began", || !one.redis.context.is_epoch_outdated()).await;
        one.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.store(&other, 4).await;
        scenario.assert_repeat(&one, 4).await;
    });
}

#[test]
fn values_stored_without_redis_are_in_unknown_order() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    for reporters in 1..4 {
        let scenario = ValueScenario::new();
        let [one, two, three, watcher] = scenario.replicas(&server);
        runtime().block_on(async {
            scenario.store(&watcher, 4).await;
            let claims = [
                scenario.claim_alone(&one, 5).await,
                scenario.claim_alone(&two, 6).await,
                scenario.claim_alone(&three, 7).await,
            ];
            for (replica, claim) in [&one, &two, &three].into_iter().zip(claims).take(reporters) {
                commit(claim);
                replica.redis.flush(GENEROUS_TIMEOUT).await;
            }
            // Any of them may be the last in Kafka.
            let (verdict, claim) = scenario.verdict(&watcher, 4 + reporters as u64).await;
            assert!(claim.is_some(), "{reporters}: {verdict:?}");
            commit(claim.unwrap());
            watcher.redis.flush(GENEROUS_TIMEOUT).await;
            scenario.assert_repeat(&watcher, 4 + reporters as u64).await;
        });
    }
}

#[test]
fn a_value_stored_without_redis_during_a_hold_is_not_trusted() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other, watcher] = scenario.replicas(&server);
    runtime().block_on(async {
        for first in [true, false] {
            scenario.store(&one, 4).await;
            let alone = scenario.claim_alone(&other, 6).await;
            let held = scenario.claim(&one, 5).await;
            let claims = [(&other, alone), (&one, held)];
            let mut claims = if first {
                claims.into()
            } else {
                claims.into_iter().rev().collect::<Vec<_>>()
            };
            for (replica, claim) in claims.drain(..) {
                commit(claim);
                replica.redis.flush(GENEROUS_TIMEOUT).await;
            }
            scenario.store(&watcher, if first { 5 } else { 6 }).await;
        }
    });
    // A release does not restore a value that was interfered with.
    let scenario = ValueScenario::new();
    let [one, other, watcher] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        let alone = scenario.claim_alone(&other, 6).await;
        let held = scenario.claim(&one, 5).await;
        commit(alone);
        other.redis.flush(GENEROUS_TIMEOUT).await;
        drop(held);
        one.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.store(&watcher, 4).await;
    });
}

#[test]
fn a_redis_that_comes_back_with_an_older_snapshot() {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        server.save();
        scenario.store(&other, 5).await;
        server.kill();
        for replica in [&one, &other] {
            drop(scenario.claim(replica, 9).await);
            wait_until_redis_is_given_up(replica).await;
        }
        server.restart();
        let client = Client::open(server.url()).unwrap();
        let keys: Vec<Vec<u8>> = ::redis::cmd("KEYS")
            .arg("*:*:c*")
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        assert_eq!(keys.len(), 1, "Redis has the snapshot");
        for replica in [&one, &other] {
            wait_until_redis_is_asked(replica).await;
            // The recovery period must not be the reason.
            wait_until("the recovery period is over", || {
                !replica.redis.context.circuit_breaker.is_recovering()
            })
            .await;
        }
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
    });
}

/// Redis is paused or restarted, so both replicas are without it. The second one to reconnect has
/// yet to report what it stored.
fn assert_first_to_reconnect_trusts_nothing(
    away: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
) {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        scenario.assert_repeat(&other, 4).await;
        server.save();
        away(&mut server);
        for replica in [&one, &other] {
            drop(scenario.claim(replica, 9).await);
            wait_until_redis_is_given_up(replica).await;
        }
        let stored = scenario.claim(&other, 5).await;
        assert!(!one.redis.context.circuit_breaker.is_closed());
        back(&mut server);
        wait_until_redis_is_asked(&one).await;
        let errors = one.errors.get();
        scenario.store(&one, 4).await;
        scenario.store(&one, 4).await;
        assert_eq!(one.errors.get(), errors, "Redis decided");
        commit(stored);
        wait_until_redis_is_asked(&other).await;
        other.redis.flush(GENEROUS_TIMEOUT).await;
        wait_until("the recovery period is over", || {
            !one.redis.context.circuit_breaker.is_recovering()
        })
        .await;
        scenario.store(&one, 4).await;
    });
}

#[test]
fn the_first_to_reconnect_after_a_pause_trusts_nothing() {
    assert_first_to_reconnect_trusts_nothing(|server| server.pause(), |server| server.resume());
}

#[test]
fn the_first_to_reconnect_after_a_restart_trusts_nothing() {
    assert_first_to_reconnect_trusts_nothing(RedisServer::kill, RedisServer::restart);
}

#[test]
fn renewals_create_no_hold_that_was_never_granted() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one, other] = scenario.replicas(&server);
    runtime().block_on(async {
        let alone = scenario.claim_alone(&one, 5).await;
        let renewals = one
            .redis
            .context
            .take_due_renewals(Duration::ZERO, Instant::now());
        assert_eq!(renewals.len(), 1);
        for renewal in renewals {
            one.redis.outbox.send(renewal).await.unwrap();
        }
        one.redis.flush(GENEROUS_TIMEOUT).await;
        let client = Client::open(server.url()).unwrap();
        let keys: Vec<Vec<u8>> = ::redis::cmd("KEYS")
            .arg("*:h*")
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        assert_eq!(keys.len(), 0);
        scenario.store(&other, 4).await;
        commit(alone);
        one.redis.flush(GENEROUS_TIMEOUT).await;
        scenario.store(&other, 4).await;
    });
}

#[test]
fn bridges_of_other_topics_never_meet() {
    let topics = fresh_topics();
    let mut others = topics.clone();
    others[9] += "x";
    let epoch_command = |prefix: &str, topics: &TestTopics| {
        let protocol = RedisProtocol::new(&drop_settings(), prefix, topics);
        protocol.begin_epoch(&[]).get_packed_command()
    };
    assert_eq!(epoch_command("a", &topics), epoch_command("a", &topics));
    assert_ne!(epoch_command("a", &topics), epoch_command("a", &others));
    assert_ne!(epoch_command("a", &topics), epoch_command("b", &topics));
}

#[test]
fn a_replica_that_has_just_started_trusts_the_current_value() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one] = scenario.replicas(&server);
    runtime().block_on(scenario.store(&one, 4));
    let [started] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.assert_repeat(&started, 4).await;
        scenario.assert_repeat(&one, 4).await;
    });
}

#[test]
fn a_replica_that_has_just_started_does_not_trust_a_snapshot() {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let scenario = ValueScenario::new();
    let [one] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&one, 4).await;
        server.save();
        scenario.store(&one, 5).await;
    });
    drop(one);
    server.kill();
    server.restart();
    let [started] = scenario.replicas(&server);
    runtime().block_on(async {
        scenario.store(&started, 4).await;
        scenario.assert_repeat(&started, 4).await;
    });
}
