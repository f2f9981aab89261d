//! Leases: renewal, expiry and takeover.

use redis::{ConnectionLike, cmd};

use super::*;

fn query<T: ::redis::FromRedisValue>(server: &RedisServer, command: &[&[u8]]) -> T {
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut query = cmd(std::str::from_utf8(command[0]).unwrap());
    for argument in &command[1..] {
        query.arg(*argument);
    }
    let value = connection.req_command(&query).unwrap();
    ::redis::from_redis_value(value).unwrap()
}

fn id_key(server: &RedisServer, facts: &EventFacts<'_>) -> Vec<u8> {
    let pattern = format!("butlr-bridge:*:i{:016x}", facts.id_hash.0);
    let keys: Vec<Vec<u8>> = query(server, &[b"KEYS", pattern.as_bytes()]);
    keys.into_iter().next().expect("a key for this id")
}

const HELD_BY_ANOTHER: &[u8] = b"1uthe other one's..";

#[test]
fn the_claim_of_a_dead_replica_is_taken_over() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let settings = drop_settings();
    let replica = Replica::new(&settings, &server.url(), &topics, GENEROUS_TIMEOUT);
    let id = ksuid(1, 1);
    let facts = facts(&id, None, 1, 1);
    runtime().block_on(async {
        let (_, claim) = replica.verdict(&facts).await;
        let key = id_key(&server, &facts);
        drop(claim);
        replica.redis.flush(GENEROUS_TIMEOUT).await;
        let () = query(&server, &[b"SET", &key, HELD_BY_ANOTHER, b"PX", b"1500"]);
        let timed_out = replica.claim(&facts, Duration::from_millis(300)).await;
        assert!(timed_out.is_none());
        let since = Instant::now();
        let (verdict, claim) = replica.verdict(&facts).await;
        assert!(matches!(verdict, DedupVerdict::Publish(_)));
        assert!(
            (900..1700).contains(&since.elapsed().as_millis()),
            "{since:?}"
        );
        commit(claim.unwrap());
    });
    assert_eq!(replica.errors.get(), 0);
}

#[test]
fn a_replica_that_lost_its_lease_leaves_the_successor_alone() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let settings = drop_settings();
    let replica = Replica::new(&settings, &server.url(), &topics, GENEROUS_TIMEOUT);
    for stored in [false, true] {
        let id = ksuid(1, u8::from(stored));
        let facts = facts(&id, None, 1, 1);
        runtime().block_on(async {
            let (_, claim) = replica.verdict(&facts).await;
            let key = id_key(&server, &facts);
            let () = query(&server, &[b"SET", &key, HELD_BY_ANOTHER, b"PX", b"9000"]);
            if stored {
                commit(claim.unwrap());
            } else {
                drop(claim);
            }
            replica.redis.flush(GENEROUS_TIMEOUT).await;
            let value: Vec<u8> = query(&server, &[b"GET", &key]);
            assert_eq!(value, HELD_BY_ANOTHER);
            assert_eq!(replica.errors.get(), u64::from(stored));
        });
    }
}

#[test]
fn an_open_claim_is_renewed() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let settings = drop_settings();
    let [one, other] = Replica::start_many(&settings, &server.url(), &topics);
    let id = ksuid(1, 1);
    let facts = facts(&id, Some(1), 1, 1);
    runtime().block_on(async {
        let (_, claim) = one.verdict(&facts).await;
        let waiting = other.claim(&facts, Duration::from_millis(4500)).await;
        assert!(waiting.is_none());
        commit(claim.unwrap());
        let (verdict, _) = other.verdict(&facts).await;
        assert_eq!(verdict, DedupVerdict::Duplicate(DuplicateKind::Redelivery));
        // Every key expires.
        let keys: Vec<Vec<u8>> = query(&server, &[b"KEYS", b"*"]);
        assert!(keys.len() >= 3, "{keys:?}");
        for key in keys {
            let left: i64 = query(&server, &[b"PTTL", &key]);
            assert!(left > 0, "{}: {left}", String::from_utf8_lossy(&key));
        }
    });
}
