//! What waits to be sent. Deliveries with the same key go out one after the other: the next becomes ready only once the
//! one before has ended and none of its tries is still listened to. Only an overlapping copy goes out with the delivery
//! before it, whose copy it is. Where nobody listens any more (for too long, at the
//! run's end, or because too many do) and where a connection broke, a server may still be at a try: then the order is not known.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use super::tries::SendJob;
use crate::hash::IdentityHasher;
use crate::message::DeliveryKind;

#[derive(Default)]
pub(super) struct SendQueue {
    ready: VecDeque<SendJob>,
    paused: BinaryHeap<Reverse<PausedJob>>,
    key_locks: HashMap<u64, KeyLock, BuildHasherDefault<IdentityHasher>>,
    outstanding: usize,
    /// How many of them wait behind a key.
    blocked: usize,
    pause_count: u64,
}

/// Whose turn it is with a key.
struct KeyLock {
    /// Jobs that have not ended (one, and its overlapping copy), and their tries that are still listened to.
    holders: usize,
    waiting: VecDeque<SendJob>,
}

impl SendQueue {
    /// Takes a new job; each must end ([`Queue::ended`]) once. Returns whether it is ready.
    pub(super) fn admit(&mut self, mut job: SendJob) -> bool {
        self.outstanding += 1;
        match self.key_locks.entry(job.outgoing.reading_key) {
            Entry::Vacant(free) => {
                free.insert(KeyLock {
                    holders: 1,
                    waiting: VecDeque::new(),
                });
                self.ready.push_back(job);
                true
            }
            Entry::Occupied(mut before) if is_copy(&job) && before.get().waiting.is_empty() => {
                before.get_mut().holders += 1;
                self.ready.push_back(job);
                true
            }
            Entry::Occupied(mut before) => {
                job.outgoing.detach();
                before.get_mut().waiting.push_back(job);
                self.blocked += 1;
                false
            }
        }
    }

    /// The next job that can be sent now.
    pub(super) fn next(&mut self) -> Option<SendJob> {
        self.ready.pop_front()
    }

    /// The job is to be tried again then. It keeps its key.
    pub(super) fn pause(&mut self, mut job: SendJob, until: Instant) {
        job.outgoing.detach();
        self.pause_count += 1;
        let order = self.pause_count;
        self.paused.push(Reverse(PausedJob { until, order, job }));
    }

    /// Makes ready what has paused long enough, before all that is new: its window is short. Returns how many.
    pub(super) fn resume(&mut self, now: Instant) -> usize {
        let mut due = Vec::new();
        while self.paused.peek().is_some_and(|p| p.0.until <= now) {
            due.extend(self.paused.pop().map(|p| p.0.job));
        }
        let resumed = due.len();
        for job in due.into_iter().rev() {
            self.ready.push_front(job);
        }
        resumed
    }

    /// A job with this key has ended. Returns how many others became ready by that.
    pub(super) fn finish(&mut self, key: u64) -> usize {
        self.outstanding -= 1;
        self.release(key)
    }

    /// A try of the job with this key is listened to: until that is released, too, nothing else with the key goes out.
    pub(super) fn hold(&mut self, key: u64) {
        match self.key_locks.get_mut(&key) {
            Some(turn) => turn.holders += 1,
            None => debug_assert!(false, "only what has not ended holds its key"),
        }
    }

    /// Gives back one hold of a key. Returns how many other jobs became ready by that.
    pub(super) fn release(&mut self, key: u64) -> usize {
        let Entry::Occupied(mut turn) = self.key_locks.entry(key) else {
            debug_assert!(false, "a key was given back twice");
            return 0;
        };
        let KeyLock { holders, waiting } = turn.get_mut();
        if *holders > 1 {
            *holders -= 1;
            return 0;
        }
        let Some(next) = waiting.pop_front() else {
            turn.remove();
            return 0;
        };
        let now = Instant::now();
        let mut next = vec![next];
        while waiting.front().is_some_and(is_copy) {
            next.extend(waiting.pop_front());
        }
        *holders = next.len();
        let ready = next.len();
        self.blocked -= ready;
        for mut job in next.into_iter().rev() {
            job.restart_window(now);
            self.ready.push_front(job);
        }
        ready
    }

    /// Whether there is work, but all of it waits behind tries that are listened to.
    pub(super) fn is_blocked(&self) -> bool {
        self.outstanding > 0 && self.blocked == self.outstanding
    }

    /// All that waits, whatever it waits for; each has ended by that. What is being tried at this moment stays, and
    /// nothing may be admitted any more.
    pub(super) fn drain_waiting(&mut self) -> Vec<SendJob> {
        let mut all: Vec<SendJob> = self.ready.drain(..).collect();
        all.extend(self.paused.drain().map(|p| p.0.job));
        let waiting = self.key_locks.values_mut().map(|turn| &mut turn.waiting);
        all.extend(waiting.flat_map(|waiting| waiting.drain(..)));
        self.blocked = 0;
        self.outstanding -= all.len();
        all
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Jobs that were admitted and have not ended.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }
}

/// Whether it goes out with the one before it.
fn is_copy(job: &SendJob) -> bool {
    job.outgoing.kind == DeliveryKind::Overlapping
}

struct PausedJob {
    until: Instant,
    order: u64,
    job: SendJob,
}

impl PartialEq for PausedJob {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PausedJob {}

impl PartialOrd for PausedJob {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PausedJob {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.until, self.order).cmp(&(other.until, other.order))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sender::generator::tests::outgoing;

    fn job(key: u64) -> SendJob {
        SendJob::new(outgoing(key, DeliveryKind::First), None)
    }

    fn next(queue: &mut SendQueue) -> Option<u64> {
        queue.next().map(|job| job.outgoing.reading_key)
    }

    #[test]
    fn one_key_after_the_other() {
        let mut queue = SendQueue::default();
        for (due_ms, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
            let mut job = job(key);
            job.outgoing.due_ms = due_ms;
            queue.admit(job);
        }
        let first = queue.next().unwrap();
        assert_eq!(next(&mut queue), Some(8));
        assert_eq!(next(&mut queue), None, "7 is on its way");
        let now = Instant::now();
        queue.pause(first, now + Duration::from_secs(1));
        assert_eq!(queue.resume(now), 0);
        assert_eq!(next(&mut queue), None, "7 pauses and keeps its turn");
        assert_eq!(queue.resume(now + Duration::from_secs(1)), 1);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 1);
        assert_eq!(queue.finish(7), 1);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 2);
        assert_eq!(queue.finish(7), 1);
        assert_eq!(queue.finish(8), 0);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 4);
        assert_eq!(queue.finish(7), 0);
        assert_eq!(queue.outstanding(), 0);
        assert!(queue.key_locks.is_empty(), "memory is given back");
    }

    #[test]
    fn a_key_is_free_when_nobody_listens_any_more() {
        let mut queue = SendQueue::default();
        queue.admit(job(7));
        queue.admit(job(7));
        assert!(!queue.is_blocked(), "the first is ready");
        let first = queue.next().unwrap();
        queue.hold(7);
        queue.hold(7);
        assert_eq!(
            queue.release(7),
            0,
            "one is listened to, and one has not ended"
        );
        assert!(!queue.is_blocked());
        assert_eq!(queue.finish(first.outgoing.reading_key), 0);
        assert!(queue.is_blocked());
        assert_eq!(next(&mut queue), None);
        assert_eq!(queue.release(7), 1);
        assert!(!queue.is_blocked());
        assert_eq!(next(&mut queue), Some(7));
        queue.hold(7);
        assert_eq!(queue.finish(7), 0);
        assert!(!queue.is_blocked(), "there is no work at all");
        assert_eq!(queue.release(7), 0);
        assert!(queue.key_locks.is_empty(), "memory is given back");
    }

    #[test]
    fn a_copy_goes_out_with_the_one_before_it() {
        let copy = || SendJob::new(outgoing(7, DeliveryKind::Overlapping), None);
        let kinds = |queue: &mut SendQueue| {
            let all = std::iter::from_fn(|| queue.next());
            all.map(|job| job.outgoing.kind).collect::<Vec<_>>()
        };
        let both = [DeliveryKind::First, DeliveryKind::Overlapping];
        let mut queue = SendQueue::default();
        assert!(queue.admit(job(7)));
        assert!(queue.admit(copy()), "nothing is between them");
        assert!(!queue.admit(job(7)));
        assert!(!queue.admit(copy()), "its original waits");
        assert!(!queue.admit(job(7)));
        queue.admit(job(8));
        assert_eq!(kinds(&mut queue), [both[0], both[1], DeliveryKind::First]);
        assert_eq!(queue.finish(7), 0, "one of two");
        assert_eq!(queue.finish(7), 2);
        assert_eq!(kinds(&mut queue), both);
        assert_eq!((queue.finish(7), queue.finish(7)), (0, 1));
        assert_eq!(kinds(&mut queue), [DeliveryKind::First]);
        assert_eq!((queue.finish(7), queue.finish(8)), (0, 0));
        // One whose original has ended already goes by itself.
        assert!(queue.admit(copy()));
        assert_eq!(kinds(&mut queue), [DeliveryKind::Overlapping]);
        assert_eq!(queue.finish(7), 0);
        assert_eq!(queue.outstanding(), 0);
        assert!(queue.key_locks.is_empty(), "memory is given back");
    }

    #[test]
    fn what_paused_comes_first_and_in_order() {
        let mut queue = SendQueue::default();
        let now = Instant::now();
        for key in 1..=4 {
            queue.admit(job(key));
        }
        let (first, second) = (queue.next().unwrap(), queue.next().unwrap());
        queue.pause(first, now + Duration::from_millis(2));
        queue.pause(second, now + Duration::from_millis(1));
        queue.resume(now + Duration::from_millis(2));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, [2, 1, 3, 4]);
    }

    #[test]
    fn giving_up_leaves_only_what_is_being_tried() {
        let mut queue = SendQueue::default();
        for key in [1, 1, 2, 3] {
            queue.admit(job(key));
        }
        let tried = queue.next().unwrap();
        let paused = queue.next().unwrap();
        queue.pause(paused, Instant::now());
        assert_eq!(queue.drain_waiting().len(), 3);
        assert_eq!(queue.outstanding(), 1);
        assert!(!queue.is_blocked());
        assert_eq!(queue.finish(tried.outgoing.reading_key), 0);
        assert_eq!(queue.outstanding(), 0);
    }
}
