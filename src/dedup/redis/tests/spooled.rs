//! What is on a replica's disk.

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
    redis::from_redis_value(value).unwrap()
}

/// The value of an event's id, and for how many ms it is kept.
fn read_id_state(server: &RedisServer, facts: &EventFacts<'_>) -> (Option<Vec<u8>>, i64) {
    let pattern = format!("butlr-bridge:*:i{:016x}", facts.id_hash);
    let keys: Vec<Vec<u8>> = query(server, &[b"KEYS", pattern.as_bytes()]);
    let key = keys.first().map_or(&b"none"[..], |key| key);
    (
        query(server, &[b"GET", key]),
        query(server, &[b"PTTL", key]),
    )
}

fn id_state(state: &[u8], facts: &EventFacts<'_>) -> Option<Vec<u8>> {
    Some([state, &facts.reading.to_le_bytes()].concat())
}

async fn spool(replica: &Replica, facts: &EventFacts<'_>) -> Marks {
    let (verdict, claim) = replica.verdict(facts).await;
    let claim = claim.unwrap_or_else(|| panic!("{verdict:?}"));
    let marks = claim.marks().clone();
    claim.commit_spooled(Instant::now());
    replica.shared.flush(GENEROUS_TIMEOUT).await;
    marks
}

async fn drain_and_flush(replica: &Replica, facts: &EventFacts<'_>, marks: &Marks) {
    mark_drained(replica, facts, marks);
    replica.shared.flush(GENEROUS_TIMEOUT).await;
}

/// As what, and whether of something on disk, it is dropped; `None`: it is published, and stored.
async fn claim_duplicate(
    replica: &Replica,
    facts: &EventFacts<'_>,
) -> Option<(DuplicateKind, bool)> {
    let decided = replica.claim(facts, Duration::from_secs(20)).await;
    match decided {
        RedisDecision::Publish(claim) => {
            commit(claim);
            replica.shared.flush(GENEROUS_TIMEOUT).await;
            None
        }
        RedisDecision::Duplicate { kind, spooled } => Some((kind, spooled)),
        RedisDecision::TimedOut => panic!("nothing is undecided for so long"),
    }
}

use DuplicateKind::{Redelivery, Repeat};

#[test]
fn undecided_then_spooled_then_published() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let topics = fresh_topics();
    let [one, other, third] = Replica::start_many(&drop_settings(), &server.url(), &topics);
    let id = ksuid(1, 1);
    for cell in [None, Some(1)] {
        let value = 1 + cell.unwrap_or(0);
        let id = match cell {
            None => id.clone(),
            Some(_) => ksuid(2, 1),
        };
        let facts = facts(&id, cell, value, 1);
        runtime().block_on(async {
            let marks = spool(&one, &facts).await;
            let (value, lasts) = read_id_state(&server, &facts);
            assert_eq!(value, id_state(b"1s", &facts));
            assert!((800_000..=900_000).contains(&lasts), "{lasts}");
            assert_eq!(
                claim_duplicate(&one, &facts).await,
                Some((Redelivery, true))
            );
            assert_eq!(
                claim_duplicate(&other, &facts).await,
                Some((Redelivery, true))
            );

            drain_and_flush(&one, &facts, &marks).await;
            let (value, lasts_then) = read_id_state(&server, &facts);
            assert_eq!(value, id_state(b"1p", &facts));
            assert!((800_000..=lasts).contains(&lasts_then), "{lasts_then}");
            assert_eq!(
                claim_duplicate(&one, &facts).await,
                Some((Redelivery, false))
            );
            assert_eq!(
                claim_duplicate(&third, &facts).await,
                Some((Redelivery, false))
            );
            // It was told otherwise, and by nobody since.
            assert_eq!(
                claim_duplicate(&other, &facts).await,
                Some((Redelivery, true))
            );
        });
    }
    assert_eq!(
        one.errors.get() + other.errors.get() + third.errors.get(),
        0
    );
}

/// Nothing but what was spooled changes.
#[test]
fn only_what_is_spooled_is_drained() {
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
        // Under its own id.
        let conflict = facts_of(3);
        let of_conflict = spool(&one, &conflict).await;
        assert!(of_conflict.conflict.is_some());
        drain_and_flush(&one, &conflict, &of_conflict).await;
        assert_eq!(
            read_id_state(&server, &spooled).0,
            id_state(b"1s", &spooled)
        );
        assert_eq!(
            claim_duplicate(&one, &conflict).await,
            Some((Redelivery, false))
        );
        assert_eq!(
            claim_duplicate(&one, &spooled).await,
            Some((Redelivery, true))
        );
        drain_and_flush(&one, &spooled, &marks).await;
        assert_eq!(
            read_id_state(&server, &spooled).0,
            id_state(b"1p", &spooled)
        );
    });
}

#[test]
fn a_repeat_of_what_is_on_disk() {
    let Some(server) = start_redis(&[]) else {
        return;
    };
    let [one, other] = Replica::start_many(&drop_settings(), &server.url(), &fresh_topics());
    let ids = [1, 2, 3, 4].map(|second| ksuid(second, 1));
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n: usize| facts(&ids[n], Some(1), 4, 1));
    runtime().block_on(async {
        let marks = spool(&one, &first).await;
        assert_eq!(claim_duplicate(&one, &second).await, Some((Repeat, true)));
        // Who stored another knows of its own disk only.
        assert_eq!(claim_duplicate(&other, &third).await, Some((Repeat, false)));
        drain_and_flush(&one, &first, &marks).await;
        assert_eq!(claim_duplicate(&one, &fourth).await, Some((Repeat, false)));
    });
}

/// Values of one (type, space, timestamp), in this order.
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
fn what_one_disk_holds_in_order_leaves_the_last_to_be_relied_on() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let [first, second] = [values.facts(0, 4), values.facts(1, 5)];
    runtime().block_on(async {
        let marks = [spool(&one, &first).await, spool(&one, &second).await];
        // The next is claimed by then.
        let (_, third) = one.verdict(&values.facts(2, 6)).await;
        drain_and_flush(&one, &first, &marks[0]).await;
        drain_and_flush(&one, &second, &marks[1]).await;
        commit(third.unwrap());
        one.shared.flush(GENEROUS_TIMEOUT).await;
        let repeat = claim_duplicate(&other, &values.facts(3, 6)).await;
        assert_eq!(repeat, Some((Repeat, false)));
    });
}

/// The value on the one's disk gets into Kafka after the other's: nobody may take the other's for the current one.
#[test]
fn what_gets_out_of_another_disk_puts_the_current_value_in_doubt() {
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
            assert_eq!(repeat, Some((Repeat, false)), "so far it is");
            drain_and_flush(&one, &first, &marks).await;
            assert_eq!(claim_duplicate(&watcher, &values.facts(3, 5)).await, None);
            let repeat = claim_duplicate(&other, &values.facts(4, 5)).await;
            assert_eq!(repeat, Some((Repeat, false)));
        });
    }
}

#[test]
fn what_is_about_to_be_stored_meanwhile_is_not_relied_on() {
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
        other.shared.flush(GENEROUS_TIMEOUT).await;
        assert_eq!(claim_duplicate(&one, &values.facts(2, 5)).await, None);
    });
}

/// What is stale does not become current by lying last.
#[test]
fn what_was_never_current_puts_nothing_in_doubt() {
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
        assert_eq!(repeat, Some((Repeat, false)));
    });
}

/// It may lie behind any value.
#[test]
fn where_redis_is_not_told_nothing_is_relied_on() {
    let Some(values) = ValueSequence::new() else {
        return;
    };
    let [one, other] = values.replicas();
    let first = values.facts(0, 4);
    let lossy = RedisStore {
        context: Arc::clone(&one.shared.context),
        outbox: mpsc::channel(1).0,
        timeout: GENEROUS_TIMEOUT,
    };
    let id = ksuid(1, 9);
    let plain = facts(&id, None, 1, 1);
    runtime().block_on(async {
        spool(&one, &plain).await;
        lossy.mark_drained(&plain, &Marks::default(), None);
        assert!(!one.shared.context.is_epoch_outdated());
        let marks = spool(&one, &first).await;
        assert_eq!(claim_duplicate(&other, &values.facts(1, 5)).await, None);
        lossy.mark_drained(&first, &marks, None);
        one.shared.flush(GENEROUS_TIMEOUT).await;
        assert_eq!(claim_duplicate(&other, &values.facts(2, 5)).await, None);
        // Of the event itself it still thinks that it is on disk: that does no harm.
        assert_eq!(
            read_id_state(&values.server, &first).0,
            id_state(b"1s", &first)
        );
    });
}

#[test]
fn copies_of_bytes_are_dropped_by_all_whatever_the_settings() {
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
        let decide = async |replica: &Replica| match replica
            .memory
            .reserve_rejected_item(&facts, Instant::now())
        {
            ReservationOutcome::Reserved(hold) => {
                let deadline = Instant::now() + Duration::from_secs(20);
                replica.shared.decide(&facts, hold, deadline).await
            }
            ReservationOutcome::Redelivery { spooled } => RedisDecision::Duplicate {
                kind: Redelivery,
                spooled,
            },
            ReservationOutcome::Wait(_) => panic!("nothing is undecided"),
        };
        runtime().block_on(async {
            let RedisDecision::Publish(claim) = decide(&one).await else {
                panic!("they are new");
            };
            commit(claim);
            one.shared.flush(GENEROUS_TIMEOUT).await;
            for replica in [&one, &other] {
                let copy = decide(replica).await;
                assert!(
                    matches!(
                        copy,
                        RedisDecision::Duplicate {
                            kind: Redelivery,
                            spooled: false
                        }
                    ),
                    "{redelivery:?}: {copy:?}"
                );
            }
        });
    }
}
