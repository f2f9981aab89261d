//! Compares the window with a plain list.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
struct TestEntry {
    key: u64,
    value: usize,
    at: Tick,
}

impl WindowEntry for TestEntry {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key
    }

    fn is_expired(&self, horizon: Tick) -> bool {
        self.at < horizon
    }
}

/// The window as a list that is searched from end to end. `None` stands for a replaced entry.
#[derive(Default)]
struct WindowModel {
    places: Vec<Option<TestEntry>>,
    evictions: u64,
}

impl WindowModel {
    fn find_entry(&mut self, key: u64) -> Option<&mut Option<TestEntry>> {
        let mut places = self.places.iter_mut();
        places.find(|place| place.is_some_and(|entry| entry.key == key))
    }

    fn get(&mut self, key: u64, horizon: Tick) -> Option<TestEntry> {
        self.find_entry(key)
            .and_then(|entry| *entry)
            .filter(|entry| entry.at >= horizon)
    }

    fn free(&mut self, horizon: Tick, limit: usize) {
        for _ in 0..limit {
            if self
                .places
                .first()
                .is_some_and(|place| place.is_none_or(|k| k.at < horizon))
            {
                self.places.remove(0);
            }
        }
    }

    fn insert(&mut self, entry: TestEntry, capacity: usize, horizon: Tick) {
        self.free(horizon, MAX_FREED_PER_INSERT);
        if self.places.len() == capacity {
            let gone = self.places.remove(0);
            self.evictions +=
                u64::from(gone.is_some_and(|k| k.at >= horizon && k.key != entry.key));
        }
        self.find_entry(entry.key).map(Option::take);
        self.places.push(Some(entry));
    }

    fn restore(&mut self, entry: TestEntry, capacity: usize, horizon: Tick) -> bool {
        let is_full = self.places.len() == capacity;
        if is_full || entry.at < horizon || self.get(entry.key, horizon).is_some() {
            return false;
        }
        self.find_entry(entry.key).map(Option::take);
        self.places.insert(0, Some(entry));
        true
    }
}

#[derive(Clone, Copy, Debug)]
enum WindowStep {
    Insert(u64),
    Restore(u64, Tick),
    Change(u64),
    Wait(Tick),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<WindowStep>> {
    let key = 0..12_u64;
    let step = prop_oneof![
        6 => key.clone().prop_map(WindowStep::Insert),
        2 => (key.clone(), 0..30_u32).prop_map(|(key, age)| WindowStep::Restore(key, age)),
        1 => key.prop_map(WindowStep::Change),
        2 => (0..12_u32).prop_map(WindowStep::Wait),
        1 => Just(WindowStep::Sweep),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn behaves_like_a_list(steps in steps(), capacity in 1..20_usize) {
        const WINDOW: Tick = 20;
        let mut window = DedupWindow::new(capacity);
        // The numbers of places wrap around.
        window.front = u32::MAX - 3;
        let mut model = WindowModel::default();
        let mut now = 1000;
        for (value, step) in steps.into_iter().enumerate() {
            let horizon = now - WINDOW;
            let make_entry = |key: u64, at| TestEntry { key: key << 20, value, at };
            let present_keys = |window: &DedupWindow<TestEntry>| -> Vec<u64> {
                let keys = (0..12).map(|key| key << 20);
                keys.filter(|key| window.get(*key, 0).is_some()).collect()
            };
            let before = present_keys(&window);
            let mut forgotten = Vec::new();
            match step {
                WindowStep::Insert(key) => {
                    window.insert_with(make_entry(key, now), horizon, |key| forgotten.push(key));
                    // It may report the new key, if the replaced entry was at the front.
                    forgotten.retain(|forgotten| *forgotten != key << 20);
                    model.insert(make_entry(key, now), capacity, horizon);
                }
                WindowStep::Restore(key, age) => {
                    let is_restored = window.restore(make_entry(key, now - age), horizon);
                    prop_assert_eq!(is_restored, model.restore(make_entry(key, now - age), capacity, horizon));
                }
                WindowStep::Change(key) => {
                    let (real, modelled) = (window.get_mut(key << 20), model.find_entry(key << 20));
                    prop_assert_eq!(real.is_some(), modelled.is_some());
                    if let (Some(real), Some(Some(modelled))) = (real, modelled) {
                        real.value = value;
                        modelled.value = value;
                    }
                }
                WindowStep::Wait(ticks) => now += ticks,
                WindowStep::Sweep => {
                    while window.sweep_with(horizon, |key| forgotten.push(key)) {}
                    model.free(horizon, 1_000);
                }
            }
            let after = present_keys(&window);
            let gone = before.into_iter().filter(|key| !after.contains(key));
            forgotten.sort_unstable();
            prop_assert_eq!(forgotten, gone.collect::<Vec<_>>());
            let horizon = now - WINDOW;
            for key in (0..12).map(|key| key << 20) {
                prop_assert_eq!(window.get(key, horizon).copied(), model.get(key, horizon));
            }
            prop_assert_eq!(window.len(), model.places.iter().flatten().count());
            prop_assert_eq!(window.ring.len(), model.places.len());
            prop_assert_eq!(window.evictions(), model.evictions);
            prop_assert!(window.allocated_bytes() <= DedupWindow::<TestEntry>::max_bytes(capacity));
        }
    }
}

#[test]
fn memory_stays_within_the_bound() {
    for capacity in [1, 7, 8, 9, 1_000, 1_025, 15_625] {
        let mut window = DedupWindow::new(capacity);
        for value in 0..3 * capacity {
            let key = (value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            window.insert(TestEntry { key, value, at: 1 }, 0);
            assert!(
                window.allocated_bytes() <= DedupWindow::<TestEntry>::max_bytes(capacity),
                "{capacity} {value}"
            );
        }
        assert_eq!(window.len(), capacity);
        assert_eq!(window.evictions(), 2 * capacity as u64);
        while window.sweep(2) {}
        assert_eq!(window.len(), 0);
        assert!(
            window.allocated_bytes() <= DedupWindow::<TestEntry>::max_bytes(MIN_CAPACITY),
            "memory is returned"
        );
    }
}
