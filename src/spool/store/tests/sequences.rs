//! The store against a map as its model, in random sequences of calls.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum StoreCall {
    Append(Vec<(u8, u16)>),
    /// Removes entries of a destination from the n-th on.
    Remove(u8, usize, usize),
    Read(u8, usize, usize),
    MoveToDeadLetters(u8, usize),
    Flush,
    /// Removals since the last flush may be undone.
    Kill,
    Close,
}

fn calls() -> impl Strategy<Value = Vec<StoreCall>> {
    let to = 0u8..Destination::COUNT as u8;
    let call = prop_oneof![
        6 => prop::collection::vec((to.clone(), 0u16..3000), 0..120).prop_map(StoreCall::Append),
        6 => (to.clone(), 0usize..300, 1usize..100).prop_map(|(to, at, many)| StoreCall::Remove(to, at, many)),
        4 => (to.clone(), 0usize..300, 0usize..200).prop_map(|(to, at, most)| StoreCall::Read(to, at, most)),
        1 => (to, 0usize..100).prop_map(|(to, at)| StoreCall::MoveToDeadLetters(to, at)),
        1 => Just(StoreCall::Flush),
        1 => Just(StoreCall::Kill),
        1 => Just(StoreCall::Close),
    ];
    prop::collection::vec(call, 1..60)
}

type MapModel = BTreeMap<(usize, u64), Vec<u8>>;

fn entries_of(model: &MapModel, to: usize) -> Vec<(u64, Vec<u8>)> {
    model
        .range((to, 0)..(to + 1, 0))
        .map(|((_, seq), value)| (*seq, value.clone()))
        .collect()
}

fn destination(to: u8) -> Destination {
    Destination::from_index(usize::from(to)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(calls in calls()) {
        let dir = tempfile::tempdir().unwrap();
        let mut at = dir.path().join("0");
        let mut store = Some(open_small(&at));
        let (mut model, mut flushed) = (MapModel::new(), BTreeSet::new());
        let (mut greatest, mut dead_letters) = (0, 0);
        for (turn, call) in calls.into_iter().enumerate() {
            let opened = store.as_ref().unwrap();
            match call {
                StoreCall::Append(entries) => {
                    let entries: Vec<_> = entries.iter().map(|(to, len)| (destination(*to), vec![*to; usize::from(*len)])).collect();
                    let seqs = opened.append(&entries).unwrap();
                    prop_assert_eq!(seqs.end - seqs.start, entries.len() as u64);
                    prop_assert!(entries.is_empty() || seqs.start > greatest);
                    greatest = greatest.max(seqs.end - 1);
                    model.extend(seqs.zip(entries).map(|(seq, (to, value))| ((to.index(), seq), value)));
                }
                StoreCall::Remove(to, at, many) => {
                    let seqs: Vec<u64> = entries_of(&model, to.into()).iter().map(|(seq, _)| *seq).skip(at).take(many).collect();
                    opened.remove(destination(to), &seqs).unwrap();
                    seqs.iter().for_each(|seq| drop(model.remove(&(to.into(), *seq))));
                }
                StoreCall::Read(to, at, most) => {
                    let entries = entries_of(&model, to.into());
                    let from = entries.get(at).map_or(0, |(seq, _)| *seq);
                    let read = opened.read(destination(to), from, limit(most, usize::MAX)).unwrap();
                    let expected: Vec<_> = entries.into_iter().filter(|(seq, _)| *seq >= from).take(most).collect();
                    prop_assert_eq!(read, expected);
                }
                StoreCall::MoveToDeadLetters(to, at) => {
                    let Some((seq, _)) = entries_of(&model, to.into()).get(at).cloned() else { continue };
                    opened.move_to_dead_letters(destination(to), seq, "reason").unwrap();
                    model.remove(&(to.into(), seq));
                    dead_letters += 1;
                    flushed = model.keys().copied().collect();
                }
                StoreCall::Flush => {
                    opened.flush().unwrap();
                    flushed = model.keys().copied().collect();
                }
                StoreCall::Kill => {
                    let copied = dir.path().join(format!("{}", turn + 1));
                    copy(&at, &copied);
                    at = copied;
                    store = Some(open_small(&at));
                    // Entries that came again are removed again.
                    let opened = store.as_ref().unwrap();
                    for to in Destination::all() {
                        let again: Vec<u64> = all(opened, to).iter().map(|(seq, _)| *seq)
                            .filter(|seq| !model.contains_key(&(to.index(), *seq))).collect();
                        prop_assert!(again.iter().all(|seq| flushed.contains(&(to.index(), *seq)) || !flushed.iter().any(|row| row.1 >= *seq)));
                        opened.remove(to, &again).unwrap();
                    }
                }
                StoreCall::Close => {
                    store.take().unwrap().flush().unwrap();
                    store = Some(open_small(&at));
                }
            }
            let opened = store.as_ref().unwrap();
            for to in Destination::all() {
                prop_assert_eq!(opened.present(to), entries_of(&model, to.index()).len() as u64);
            }
        }
        let opened = store.unwrap();
        for to in Destination::all() {
            prop_assert_eq!(all(&opened, to), entries_of(&model, to.index()));
        }
        prop_assert_eq!(opened.dead_letters().unwrap().len(), dead_letters);
        let verified = opened.verify();
        prop_assert_eq!((verified.damaged, verified.entries.iter().sum::<u64>()), (vec![], model.len() as u64));
    }
}

fn open_small(dir: &Path) -> SpoolStore {
    let (store, found) = SpoolStore::open(options(dir, 150 << 10)).unwrap();
    assert!(
        found.damaged.is_empty() && found.missing.is_empty(),
        "{found:?}"
    );
    store.with_compaction_above(400 << 10)
}
