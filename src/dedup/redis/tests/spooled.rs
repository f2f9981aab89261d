//! Spooled events, shared between replicas.

use redis::{ConnectionLike, FromRedisValue};

use super::*;

fn query<T: FromRedisValue>(server: &RedisServer, command: &[&[u8]]) -> T {
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut query = Cmd::new();
    for part in command {
        query.arg(*part);
    }
    let value = connection.req_command(&query).unwrap();
    ::redis::from_redis_value(value).unwrap()
}

/// Reads the value of an event's id, and its time to live in ms.
fn read_id_state(server: &RedisServer, facts: &EventFacts<'_>) -> (Option<Vec<u8>>, i64) {
    let pattern = format!("butlr-bridge:*:i{:016x}", facts.id_hash.0);
    let keys: Vec<Vec<u8>> = query(server, &[b"KEYS", pattern.as_bytes()]);
    let key = keys.first().map_or(&b"none"[..], |key| key);
    (
        query(server, &[b"GET", key]),
        query(server, &[b"PTTL", key]),
    )
}

fn id_state(state: &[u8], facts: &EventFacts<'_>) -> Option<Vec<u8>> {
    Some([state, &facts.reading.0.to_le_bytes()].concat())
}

async fn spool(replica: &Replica, facts: &EventFacts<'_>) -> Marks {
    let (verdict, claim) = replica.verdict(facts).await;
    let claim = claim.unwrap_or_else(|| panic!("{verdict:?}"));
    let marks = claim.marks().clone();
    claim.commit_spooled(Instant::now());
    replica.redis.flush(GENEROUS_TIMEOUT).await;
    marks
}

async fn drain_and_flush(replica: &Replica, facts: &EventFacts<'_>, marks: &Marks) {
    mark_drained(replica, facts, marks);
    replica.redis.flush(GENEROUS_TIMEOUT).await;
}

/// Returns the kind of duplicate as which the event is dropped, and the place of the stored event.
/// Returns `None` if it is published; it is then stored.
async fn claim_duplicate(
    replica: &Replica,
    facts: &EventFacts<'_>,
) -> Option<(DuplicateKind, StorageLocation)> {
    let decided = replica.claim(facts, Duration::from_secs(20)).await;
    match decided {
        Some(Decision::Publish(claim)) => {
            commit(claim);
            replica.redis.flush(GENEROUS_TIMEOUT).await;
            None
        }
        Some(Decision::Duplicate { kind, storage }) => Some((kind, storage)),
        None => panic!("no claim is undecided for so long"),
    }
}

use DuplicateKind::{Redelivery, Repeat};
use StorageLocation::{Published, Spooled};

#[test]
fn undecided_then_spooled_then_published() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let [one, other, third] = Replica::start_many(&drop_settings(), &server.url(), &topics);
    let id = ksuid(1, 1);
    for occupancy in [None, Some(1)] {
        let value = 1 + occupancy.unwrap_or(0);
        let id = match occupancy {
            None => id.clone(),
            Some(_) => ksuid(2, 1),
        };
        let facts = facts(&id, occupancy, value, 1);
        runtime().block_on(async {
            let marks = spool(&one, &facts).await;
            let (value, lasts) = read_id_state(&server, &facts);
            assert_eq!(value, id_state(b"1s", &facts));
            assert!((800_000..=900_000).contains(&lasts), "{lasts}");
            assert_eq!(
                claim_duplicate(&one, &facts).await,
                Some((Redelivery, Spooled))
            );
            assert_eq!(
                claim_duplicate(&other, &facts).await,
                Some((Redelivery, Spooled))
            );

            drain_and_flush(&one, &facts, &marks).await;
            let (value, lasts_then) = read_id_state(&server, &facts);
            assert_eq!(value, id_state(b"1p", &facts));
            assert!((800_000..=lasts).contains(&lasts_then), "{lasts_then}");
            assert_eq!(
                claim_duplicate(&one, &facts).await,
                Some((Redelivery, Published))
            );
            assert_eq!(
                claim_duplicate(&third, &facts).await,
                Some((Redelivery, Published))
            );
            // This replica was told that the event is spooled, and nothing since.
            assert_eq!(
                claim_duplicate(&other, &facts).await,
                Some((Redelivery, Spooled))
            );
        });
    }
    assert_eq!(
        one.errors.get() + other.errors.get() + third.errors.get(),
        0
    );
}

/// Draining changes no other event.
#[test]
fn only_the_spooled_event_is_drained() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let [one] = Replica::start_many(&drop_settings(), &server.url(), &fresh_topics());
    let (id, first) = (ksuid(1, 1), ksuid(1, 1));
    let facts_of = |value| facts(&id, None, value, 1);
    let spooled = facts(&first, None, 1, 1);
    runtime().block_on(async {
        drain_and_flush(&one, &spooled, &Marks::default()).await;
        assert_eq!(read_id_state(&server, &spooled).0, None);
        let marks = spool(&one, &spooled).await;
        drain_and_flush(&one, &facts_of(2), &marks).await;
        assert_eq!(
            read_id_state(&server, &spooled).0,
            id_state(b"1s", &spooled)
        );
        // Under the id of a conflict.
        let conflict = facts_of(3);
        let conflict_marks = spool(&one, &conflict).await;
        assert!(conflict_marks.conflict.is_some());
        drain_and_flush(&one, &conflict, &conflict_marks).await;
        assert_eq!(
            read_id_state(&server, &spooled).0,
            id_state(b"1s", &spooled)
        );
        assert_eq!(
            claim_duplicate(&one, &conflict).await,
            Some((Redelivery, Published))
        );
        assert_eq!(
            claim_duplicate(&one, &spooled).await,
            Some((Redelivery, Spooled))
        );
        drain_and_flush(&one, &spooled, &marks).await;
        assert_eq!(
            read_id_state(&server, &spooled).0,
            id_state(b"1p", &spooled)
        );
    });
}

#[test]
fn a_repeat_of_a_spooled_event() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let [one, other] = Replica::start_many(&drop_settings(), &server.url(), &fresh_topics());
    let ids = [1, 2, 3, 4].map(|second| ksuid(second, 1));
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n: usize| facts(&ids[n], Some(1), 4, 1));
    runtime().block_on(async {
        let marks = spool(&one, &first).await;
        assert_eq!(
            claim_duplicate(&one, &second).await,
            Some((Repeat, Spooled))
        );
        // Another replica knows only its own spool.
        assert_eq!(
            claim_duplicate(&other, &third).await,
            Some((Repeat, Published))
        );
        drain_and_flush(&one, &first, &marks).await;
        assert_eq!(
            claim_duplicate(&one, &fourth).await,
            Some((Repeat, Published))
        );
    });
}

/// Successive values of one (type, space, timestamp).
struct ValueSequence {
    server: RedisServer,
    ids: Vec<String>,
}

impl ValueSequence {
    fn new() -> Option<Self> {
        let server = start_redis(&[])?;
        let ids = (0..10).map(|second| ksuid(second, 1)).collect();
        Some(Self { server, ids })
    }

    fn replicas<const N: usize>(&self) -> [Replica; N] {
        Replica::start_many(&drop_settings(), &self.server.url(), &fresh_topics())
    }

    fn facts(&self, number: usize, value: u64) -> EventFacts<'_> {
        facts(&self.ids[number], Some(1), value, 1)
    }
}

#[test]
fn after_draining_one_spool_in_order_the_last_value_is_trusted() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let [first, second] = [values.facts(0, 4), values.facts(1, 5)];
    runtime().block_on(async {
        let marks = [spool(&one, &first).await, spool(&one, &second).await];
        // The next value is already claimed.
        let (_, third) = one.verdict(&values.facts(2, 6)).await;
        drain_and_flush(&one, &first, &marks[0]).await;
        drain_and_flush(&one, &second, &marks[1]).await;
        commit(third.unwrap());
        one.redis.flush(GENEROUS_TIMEOUT).await;
        let repeat = claim_duplicate(&other, &values.facts(3, 6)).await;
        assert_eq!(repeat, Some((Repeat, Published)));
    });
}

/// One replica's spooled value reaches Kafka after the other's, which is then no longer trusted as
/// the current one.
#[test]
fn a_value_drained_from_another_spool_invalidates_the_current_one() {
    for is_spooled in [false, true] {
        let Some(values) = ValueSequence::new() else {
            return;
        };
        let [one, other, watcher] = values.replicas();
        let [first, second] = [values.facts(0, 4), values.facts(1, 5)];
        runtime().block_on(async {
            let marks = spool(&one, &first).await;
            if is_spooled {
                let marks = spool(&other, &second).await;
                drain_and_flush(&other, &second, &marks).await;
            } else {
                assert_eq!(claim_duplicate(&other, &second).await, None);
            }
            let repeat = claim_duplicate(&watcher, &values.facts(2, 5)).await;
            assert_eq!(repeat, Some((Repeat, Published)), "still the current value");
            drain_and_flush(&one, &first, &marks).await;
            assert_eq!(claim_duplicate(&watcher, &values.facts(3, 5)).await, None);
            let repeat = claim_duplicate(&other, &values.facts(4, 5)).await;
            assert_eq!(repeat, Some((Repeat, Published)));
        });
    }
}

#[test]
fn a_value_claimed_during_a_drain_is_not_trusted() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let first = values.facts(0, 4);
    runtime().block_on(async {
        let marks = spool(&one, &first).await;
        let (_, held) = other.verdict(&values.facts(1, 5)).await;
        drain_and_flush(&one, &first, &marks).await;
        commit(held.unwrap());
        other.redis.flush(GENEROUS_TIMEOUT).await;
        assert_eq!(claim_duplicate(&one, &values.facts(2, 5)).await, None);
    });
}

/// A stale event does not become current by being the last in Kafka.
#[test]
fn draining_a_stale_event_invalidates_nothing() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let [earlier, first] = [values.facts(0, 4), values.facts(1, 5)];
    runtime().block_on(async {
        assert_eq!(claim_duplicate(&other, &first).await, None);
        let marks = spool(&one, &earlier).await;
        assert!(marks.stale);
        drain_and_flush(&one, &earlier, &marks).await;
        assert_eq!(
            read_id_state(&values.server, &earlier).0,
            id_state(b"1p", &earlier)
        );
        let repeat = claim_duplicate(&other, &values.facts(2, 5)).await;
        assert_eq!(repeat, Some((Repeat, Published)));
    });
}

/// The drained event may lie behind any value.
#[test]
fn after_a_lost_drain_report_no_value_is_trusted() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let first = values.facts(0, 4);
    let lossy = RedisStore {
        context: Arc::clone(&one.redis.context),
        outbox: mpsc::channel(1).0,
        timeout: GENEROUS_TIMEOUT,
    };
    let id = ksuid(1, 9);
    let plain = facts(&id, None, 1, 1);
    runtime().block_on(async {
        spool(&one, &plain).await;
        lossy.mark_drained(&plain, &Marks::default(), None);
        assert!(!one.redis.context.is_epoch_outdated());
        let marks = spool(&one, &first).await;
        assert_eq!(claim_duplicate(&other, &values.facts(1, 5)).await, None);
        lossy.mark_drained(&first, &marks, None);
        one.redis.flush(GENEROUS_TIMEOUT).await;
        assert_eq!(claim_duplicate(&other, &values.facts(2, 5)).await, None);
        // Redis still takes the event itself for spooled, which does no harm.
        assert_eq!(
            read_id_state(&values.server, &first).0,
            id_state(b"1s", &first)
        );
    });
}

#[test]
fn copies_of_a_rejected_item_are_dropped_by_all_replicas() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    for redelivery in [
        DuplicateHandling::Drop,
        DuplicateHandling::Tag,
        DuplicateHandling::Off,
    ] {
        let settings = settings(redelivery, DuplicateHandling::Drop);
        let [one, other] = Replica::start_many(&settings, &server.url(), &fresh_topics());
        let facts = EventFacts::from_bytes(b"{");
        let decide = async |replica: &Replica| match replica.memory.reserve(&facts, Instant::now())
        {
            ReservationOutcome::Reserved(reservation) => {
                let deadline = Instant::now() + Duration::from_secs(20);
                replica.redis.decide(&facts, reservation, deadline).await
            }
            ReservationOutcome::Redelivery { storage } => Some(Decision::Duplicate {
                kind: Redelivery,
                storage,
            }),
            ReservationOutcome::Wait(_) => panic!("nothing is undecided"),
        };
        runtime().block_on(async {
            let Some(Decision::Publish(claim)) = decide(&one).await else {
                panic!("the item is new");
            };
            commit(claim);
            one.redis.flush(GENEROUS_TIMEOUT).await;
            for replica in [&one, &other] {
                let copy = decide(replica).await;
                assert!(
                    matches!(
                        copy,
                        Some(Decision::Duplicate {
                            kind: Redelivery,
                            storage: Published
                        })
                    ),
                    "{redelivery:?}: {copy:?}"
                );
            }
        });
    }
}
