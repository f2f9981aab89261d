//! Outages of Redis.

use super::*;

#[test]
fn a_redis_killed_and_started_again_is_used_again() {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let settings = drop_settings();
    let [one, other] = Replica::start_many(&settings, &server.url(), &topics);
    runtime().block_on(async {
        let ids: Vec<_> = (0..20).map(|n| ksuid(1, n)).collect();
        let facts = |n: usize, value| facts(&ids[n], Some(n as u64), value, 1);
        let (_, before) = one.verdict(&facts(0, 1)).await;
        commit(one.verdict(&facts(1, 1)).await.1.unwrap());
        let open = one.verdict(&facts(2, 1)).await.1.unwrap();
        server.kill();
        // A claim granted by Redis ends without it.
        commit(before.unwrap());
        let since = Instant::now();
        for n in 3..10 {
            let (verdict, claim) = one.verdict(&facts(n, 1)).await;
            assert!(matches!(verdict, DedupVerdict::Publish(_)));
            commit(claim.unwrap());
        }
        assert!(
            since.elapsed() < GENEROUS_TIMEOUT,
            "each event waited for Redis"
        );
        assert!(one.errors.get() >= 6, "{}", one.errors.get());
        server.restart();
        let since = Instant::now();
        loop {
            let errors = other.errors.get();
            let id = format!("probe {since:?} {errors}");
            drop(other.verdict(&super::facts(&id, None, 1, 1)).await);
            if other.errors.get() == errors && one.redis.context.circuit_breaker.is_closed() {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        one.redis.flush(GENEROUS_TIMEOUT).await;
        let errors = (one.errors.get(), other.errors.get());
        // Redis was told afterwards what was stored during the outage, and what was in flight.
        for n in [0, 3, 9] {
            let (verdict, _) = other.verdict(&facts(n, 1)).await;
            assert_eq!(
                verdict,
                DedupVerdict::Duplicate(DuplicateKind::Redelivery),
                "{n}"
            );
        }
        // Still undecided.
        let waiting = other.claim(&facts(2, 1), Duration::from_millis(100)).await;
        assert!(waiting.is_none());
        commit(open);
        let (verdict, _) = other.verdict(&facts(2, 1)).await;
        assert_eq!(verdict, DedupVerdict::Duplicate(DuplicateKind::Redelivery));
        // A value that Redis has lost is supplied by the replica that knows it.
        let id = ksuid(2, 100);
        let again = super::facts(&id, Some(1), 2, 1);
        let (verdict, claim) = one.verdict(&again).await;
        let DedupVerdict::Publish(marks) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(marks.revision.unwrap().supersedes.to_string(), ids[1]);
        commit(claim.unwrap());
        assert_eq!((one.errors.get(), other.errors.get()), errors);
    });
}

/// 4, then 5 at another replica, then 4 again while Redis is away: that is no repeat, and neither
/// is the 5 after it.
fn assert_reverted_value_is_published(
    away: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
) {
    let Some(mut server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let settings = drop_settings();
    let [one, other] = Replica::start_many(&settings, &server.url(), &topics);
    runtime().block_on(async {
        let ids: Vec<_> = (0..4).map(|second| ksuid(second, 1)).collect();
        for (number, (replica, value)) in [(&one, 4), (&other, 5), (&one, 4), (&other, 5)]
            .into_iter()
            .enumerate()
        {
            if number == 2 {
                away(&mut server);
            }
            let facts = facts(&ids[number], Some(1), value, 1);
            let (verdict, claim) = replica.verdict(&facts).await;
            assert!(
                matches!(verdict, DedupVerdict::Publish(_)),
                "{number}: {verdict:?}"
            );
            commit(claim.unwrap());
            if number == 2 {
                back(&mut server);
                let since = Instant::now();
                while !one.redis.context.circuit_breaker.is_closed() {
                    assert!(since.elapsed() < Duration::from_secs(10));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            replica.redis.flush(GENEROUS_TIMEOUT).await;
        }
        assert_eq!(one.errors.get(), 1);
    });
}

#[test]
fn a_value_that_reverts_while_redis_is_paused() {
    assert_reverted_value_is_published(|server| server.pause(), |server| server.resume());
}

#[test]
fn a_value_that_reverts_while_redis_is_restarted() {
    assert_reverted_value_is_published(RedisServer::kill, RedisServer::restart);
}

#[test]
fn lost_scripts_are_loaded_again() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let replica = Replica::new(
        &drop_settings(),
        &server.url(),
        &fresh_topics(),
        GENEROUS_TIMEOUT,
    );
    let mut connection = Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    runtime().block_on(async {
        for n in 0..10 {
            let id = ksuid(1, n);
            let facts = facts(&id, Some(1), u64::from(n), 1);
            let (verdict, claim) = replica.verdict(&facts).await;
            let DedupVerdict::Publish(marks) = verdict else {
                panic!("{verdict:?}");
            };
            assert_eq!(marks.revision.map_or(0, |r| r.number), u32::from(n));
            let flush = ::redis::cmd("SCRIPT").arg("FLUSH").exec(&mut connection);
            flush.unwrap();
            commit(claim.unwrap());
        }
    });
    assert_eq!(replica.errors.get(), 0);
}

#[test]
fn a_paused_redis_delays_one_event() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let timeout = Duration::from_millis(100);
    let replica = Replica::new(&drop_settings(), &server.url(), &fresh_topics(), timeout);
    runtime().block_on(async {
        let ids: Vec<_> = (0..100).map(|n| ksuid(1, n)).collect();
        let facts = |n: usize| facts(&ids[n], Some(n as u64), 1, 1);
        commit(replica.verdict(&facts(0)).await.1.unwrap());
        let errors = replica.errors.get();
        server.pause();
        let mut slow = 0;
        for n in 1..50 {
            let since = Instant::now();
            commit(replica.verdict(&facts(n)).await.1.unwrap());
            slow += u32::from(since.elapsed() >= timeout);
        }
        // One event has to wait; more may because the machine is busy.
        assert!((1..5).contains(&slow), "{slow} of 49 waited");
        assert_eq!(replica.errors.get(), errors + 49);
        server.resume();
        let since = Instant::now();
        while !replica.redis.context.circuit_breaker.is_closed() {
            assert!(since.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replica.redis.flush(GENEROUS_TIMEOUT).await;
        let errors = replica.errors.get();
        commit(replica.verdict(&facts(50)).await.1.unwrap());
        assert_eq!(replica.errors.get(), errors);
        // The commands sent meanwhile were late, but arrived.
        let empty = MemoryStore::new(&drop_settings(), Instant::now());
        let other = Replica {
            memory: empty,
            ..replica
        };
        for n in [1, 2, 49, 50] {
            let (verdict, _) = other.verdict(&facts(n)).await;
            assert_eq!(
                verdict,
                DedupVerdict::Duplicate(DuplicateKind::Redelivery),
                "{n}"
            );
        }
    });
}

#[test]
fn a_redis_without_access_or_room_is_not_used() {
    let Some(server) = start_redis(&["--requirepass", "right-secret"]) else {
        return;
    };
    let Some(full) = start_redis(&["--maxmemory", "1"]) else {
        return;
    };
    let closed = RedisServer::start(&[]).url();
    let wrong = format!("redis://:wrong-secret@127.0.0.1:{}", server.port());
    let right = format!("redis://:right-secret@127.0.0.1:{}/2", server.port());
    for (url, errors) in [
        (server.url(), 20),
        (closed, 20),
        (wrong, 20),
        (full.url(), 20),
        (right, 0),
    ] {
        let replica = Replica::new(&drop_settings(), &url, &fresh_topics(), GENEROUS_TIMEOUT);
        runtime().block_on(async {
            for n in 0..20 {
                let id = ksuid(1, n);
                let since = Instant::now();
                let (verdict, claim) = replica.verdict(&facts(&id, None, 1, 1)).await;
                assert_eq!(verdict, DedupVerdict::Publish(Marks::default()));
                commit(claim.unwrap());
                assert!(
                    since.elapsed() < GENEROUS_TIMEOUT / 2,
                    "{:?}",
                    since.elapsed()
                );
            }
            replica.redis.flush(GENEROUS_TIMEOUT / 10).await;
        });
        assert_eq!(replica.errors.get(), errors);
    }
}

#[test]
fn the_address_is_never_shown() {
    let redis = config::RedisConfig {
        url: SecretString::from("redis://user:hush@nowhere.invalid:1/0?protocol=none"),
        timeout: GENEROUS_TIMEOUT,
        prefix: "butlr-bridge".to_owned(),
    };
    let topics = fresh_topics();
    let errors = IntCounter::new("errors", "errors").unwrap();
    let problem = RedisStore::start(&drop_settings(), &redis, &topics, errors.clone()).unwrap_err();
    assert_eq!(problem, "is not a Redis address");
    let url = "redis://user:hush@nowhere.invalid:1/0";
    let replica = Replica::new(&drop_settings(), url, &topics, GENEROUS_TIMEOUT);
    let mut shown = format!("{:?} {:?}", replica.redis, replica.redis.context);
    runtime().block_on(async {
        let id = ksuid(1, 1);
        let (_, claim) = replica.verdict(&facts(&id, None, 1, 1)).await;
        shown += &format!("{claim:?}");
    });
    for secret in ["hush", "user", "nowhere"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
