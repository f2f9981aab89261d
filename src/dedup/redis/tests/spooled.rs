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
fn state(server: &RedisServer, facts: &Facts<'_>) -> (Option<Vec<u8>>, i64) {
    let pattern = format!("butlr-bridge:*:i{:016x}", facts.id_key);
    let keys: Vec<Vec<u8>> = query(server, &[b"KEYS", pattern.as_bytes()]);
    let key = keys.first().map_or(&b"none"[..], |key| key);
    (
        query(server, &[b"GET", key]),
        query(server, &[b"PTTL", key]),
    )
}

fn with_reading(state: &[u8], facts: &Facts<'_>) -> Option<Vec<u8>> {
    Some([state, &facts.reading.to_le_bytes()].concat())
}

async fn spool(replica: &Replica, facts: &Facts<'_>) -> Marks {
    let (verdict, claim) = replica.verdict(facts).await;
    let claim = claim.unwrap_or_else(|| panic!("{verdict:?}"));
    let marks = claim.marks().clone();
    claim.commit_spooled(Instant::now());
    replica.shared.flush(PATIENT).await;
    marks
}

async fn drained(replica: &Replica, facts: &Facts<'_>, marks: &Marks) {
    drain(replica, facts, marks);
    replica.shared.flush(PATIENT).await;
}

/// As what, and whether of something on disk, it is dropped; `None`: it is published, and stored.
async fn dropped(replica: &Replica, facts: &Facts<'_>) -> Option<(Duplicate, bool)> {
    let decided = replica.claim(facts, Duration::from_secs(20)).await;
    match decided {
        Decided::Publish(claim) => {
            commit(claim);
            replica.shared.flush(PATIENT).await;
            None
        }
        Decided::Duplicate { kind, spooled } => Some((kind, spooled)),
        Decided::TimedOut => panic!("nothing is undecided for so long"),
    }
}

use Duplicate::{Redelivery, Repeat};

#[test]
fn undecided_then_spooled_then_published() {
    let Some(server) = redis(&[]) else { return };
    let topics = fresh_topics();
    let [one, other, third] = Replica::several(&default(), &server.url(), &topics);
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
            let (value, lasts) = state(&server, &facts);
            assert_eq!(value, with_reading(b"1s", &facts));
            assert!((800_000..=900_000).contains(&lasts), "{lasts}");
            assert_eq!(dropped(&one, &facts).await, Some((Redelivery, true)));
            assert_eq!(dropped(&other, &facts).await, Some((Redelivery, true)));

            drained(&one, &facts, &marks).await;
            let (value, lasts_then) = state(&server, &facts);
            assert_eq!(value, with_reading(b"1p", &facts));
            assert!((800_000..=lasts).contains(&lasts_then), "{lasts_then}");
            assert_eq!(dropped(&one, &facts).await, Some((Redelivery, false)));
            assert_eq!(dropped(&third, &facts).await, Some((Redelivery, false)));
            // It was told otherwise, and by nobody since.
            assert_eq!(dropped(&other, &facts).await, Some((Redelivery, true)));
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
    let Some(server) = redis(&[]) else { return };
    let [one] = Replica::several(&default(), &server.url(), &fresh_topics());
    let (id, first) = (ksuid(1, 1), ksuid(1, 1));
    let facts_of = |value| facts(&id, None, value, 1);
    let spooled = facts(&first, None, 1, 1);
    runtime().block_on(async {
        drained(&one, &spooled, &Marks::default()).await;
        assert_eq!(state(&server, &spooled).0, None);
        let marks = spool(&one, &spooled).await;
        drained(&one, &facts_of(2), &marks).await;
        assert_eq!(state(&server, &spooled).0, with_reading(b"1s", &spooled));
        // Under its own id.
        let conflict = facts_of(3);
        let of_conflict = spool(&one, &conflict).await;
        assert!(of_conflict.conflict.is_some());
        drained(&one, &conflict, &of_conflict).await;
        assert_eq!(state(&server, &spooled).0, with_reading(b"1s", &spooled));
        assert_eq!(dropped(&one, &conflict).await, Some((Redelivery, false)));
        assert_eq!(dropped(&one, &spooled).await, Some((Redelivery, true)));
        drained(&one, &spooled, &marks).await;
        assert_eq!(state(&server, &spooled).0, with_reading(b"1p", &spooled));
    });
}

#[test]
fn a_repeat_of_what_is_on_disk() {
    let Some(server) = redis(&[]) else { return };
    let [one, other] = Replica::several(&default(), &server.url(), &fresh_topics());
    let ids = [1, 2, 3, 4].map(|second| ksuid(second, 1));
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n: usize| facts(&ids[n], Some(1), 4, 1));
    runtime().block_on(async {
        let marks = spool(&one, &first).await;
        assert_eq!(dropped(&one, &second).await, Some((Repeat, true)));
        // Who stored another knows of its own disk only.
        assert_eq!(dropped(&other, &third).await, Some((Repeat, false)));
        drained(&one, &first, &marks).await;
        assert_eq!(dropped(&one, &fourth).await, Some((Repeat, false)));
    });
}

/// Values of one (type, space, timestamp), in this order.
struct Values {
    server: RedisServer,
    ids: Vec<String>,
}

impl Values {
    fn new() -> Option<Self> {
        let server = redis(&[])?;
        let ids = (0..10).map(|second| ksuid(second, 1)).collect();
        Some(Self { server, ids })
    }

    fn replicas<const N: usize>(&self) -> [Replica; N] {
        Replica::several(&default(), &self.server.url(), &fresh_topics())
    }

    fn facts(&self, number: usize, value: u64) -> Facts<'_> {
        facts(&self.ids[number], Some(1), value, 1)
    }
}

#[test]
fn what_one_disk_holds_in_order_leaves_the_last_to_be_relied_on() {
    let Some(values) = Values::new() else { return };
    let [one, other] = values.replicas();
    let [first, second] = [values.facts(0, 4), values.facts(1, 5)];
    runtime().block_on(async {
        let marks = [spool(&one, &first).await, spool(&one, &second).await];
        // The next is claimed by then.
        let (_, third) = one.verdict(&values.facts(2, 6)).await;
        drained(&one, &first, &marks[0]).await;
        drained(&one, &second, &marks[1]).await;
        commit(third.unwrap());
        one.shared.flush(PATIENT).await;
        let repeat = dropped(&other, &values.facts(3, 6)).await;
        assert_eq!(repeat, Some((Repeat, false)));
    });
}

/// The value on the one's disk gets into Kafka after the other's: nobody may take the other's for the current one.
#[test]
fn what_gets_out_of_another_disk_puts_the_current_value_in_doubt() {
    for is_spooled in [false, true] {
        let Some(values) = Values::new() else { return };
        let [one, other, watcher] = values.replicas();
        let [first, second] = [values.facts(0, 4), values.facts(1, 5)];
        runtime().block_on(async {
            let marks = spool(&one, &first).await;
            if is_spooled {
                let marks = spool(&other, &second).await;
                drained(&other, &second, &marks).await;
            } else {
                assert_eq!(dropped(&other, &second).await, None);
            }
            let repeat = dropped(&watcher, &values.facts(2, 5)).await;
            assert_eq!(repeat, Some((Repeat, false)), "so far it is");
            drained(&one, &first, &marks).await;
            assert_eq!(dropped(&watcher, &values.facts(3, 5)).await, None);
            let repeat = dropped(&other, &values.facts(4, 5)).await;
            assert_eq!(repeat, Some((Repeat, false)));
        });
    }
}

#[test]
fn what_is_about_to_be_stored_meanwhile_is_not_relied_on() {
    let Some(values) = Values::new() else { return };
    let [one, other] = values.replicas();
    let first = values.facts(0, 4);
    runtime().block_on(async {
        let marks = spool(&one, &first).await;
        let (_, held) = other.verdict(&values.facts(1, 5)).await;
        drained(&one, &first, &marks).await;
        commit(held.unwrap());
        other.shared.flush(PATIENT).await;
        assert_eq!(dropped(&one, &values.facts(2, 5)).await, None);
    });
}

/// What is stale does not become current by lying last.
#[test]
fn what_was_never_current_puts_nothing_in_doubt() {
    let Some(values) = Values::new() else { return };
    let [one, other] = values.replicas();
    let [earlier, first] = [values.facts(0, 4), values.facts(1, 5)];
    runtime().block_on(async {
        assert_eq!(dropped(&other, &first).await, None);
        let marks = spool(&one, &earlier).await;
        assert!(marks.stale);
        drained(&one, &earlier, &marks).await;
        assert_eq!(
            state(&values.server, &earlier).0,
            with_reading(b"1p", &earlier)
        );
        let repeat = dropped(&other, &values.facts(2, 5)).await;
        assert_eq!(repeat, Some((Repeat, false)));
    });
}

/// It may lie behind any value.
#[test]
fn where_redis_is_not_told_nothing_is_relied_on() {
    let Some(values) = Values::new() else { return };
    let [one, other] = values.replicas();
    let first = values.facts(0, 4);
    let lossy = Shared {
        line: Arc::clone(&one.shared.line),
        outbox: mpsc::channel(1).0,
        timeout: PATIENT,
    };
    let id = ksuid(1, 9);
    let plain = facts(&id, None, 1, 1);
    runtime().block_on(async {
        spool(&one, &plain).await;
        lossy.drained(&plain, &Marks::default(), None);
        assert!(!one.shared.line.has_forgotten());
        let marks = spool(&one, &first).await;
        assert_eq!(dropped(&other, &values.facts(1, 5)).await, None);
        lossy.drained(&first, &marks, None);
        one.shared.flush(PATIENT).await;
        assert_eq!(dropped(&other, &values.facts(2, 5)).await, None);
        // Of the event itself it still thinks that it is on disk: that does no harm.
        assert_eq!(state(&values.server, &first).0, with_reading(b"1s", &first));
    });
}

#[test]
fn copies_of_bytes_are_dropped_by_all_whatever_the_settings() {
    let Some(server) = redis(&[]) else { return };
    for redelivery in [DuplicateHandling::Drop, DuplicateHandling::Tag, DuplicateHandling::Off] {
        let settings = settings(redelivery, DuplicateHandling::Drop);
        let [one, other] = Replica::several(&settings, &server.url(), &fresh_topics());
        let facts = Facts::of_bytes(b"{");
        let decide =
            async |replica: &Replica| match replica.memory.hold_bytes(&facts, Instant::now()) {
                Held::Hold(hold) => {
                    let deadline = Instant::now() + Duration::from_secs(20);
                    replica.shared.decide(&facts, hold, deadline).await
                }
                Held::Redelivery { spooled } => Decided::Duplicate {
                    kind: Redelivery,
                    spooled,
                },
                Held::Wait(_) => panic!("nothing is undecided"),
            };
        runtime().block_on(async {
            let Decided::Publish(claim) = decide(&one).await else {
                panic!("they are new");
            };
            commit(claim);
            one.shared.flush(PATIENT).await;
            for replica in [&one, &other] {
                let copy = decide(replica).await;
                assert!(
                    matches!(
                        copy,
                        Decided::Duplicate {
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
