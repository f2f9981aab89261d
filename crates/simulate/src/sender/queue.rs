//! Queue of the deliveries to send.
//!
//! Deliveries with the same key are sent one after the other: the next becomes ready once the
//! previous one has ended and none of its tries still waits for a late response. Only an
//! overlapping copy is sent together with its original.
//!
//! The order at the server is unknown if a connection broke, or if nobody waits for a late response
//! any more (because it took too long, at the end of a run, or because too many tasks wait): the
//! server may still be working on that try.

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
    /// Number of outstanding jobs that wait for their key.
    blocked: usize,
    /// Number of pauses so far, which orders jobs that resume at the same moment.
    pause_count: u64,
}

/// Lock on a key.
struct KeyLock {
    /// Number of unfinished jobs (one and its overlapping copies) and of their tries that wait for
    /// a late response.
    holders: usize,
    waiting: VecDeque<SendJob>,
}

impl SendQueue {
    /// Admits a job, which must be finished once with [`SendQueue::finish`]. Returns `true` if it
    /// is ready.
    pub(super) fn admit(&mut self, mut job: SendJob) -> bool {
        self.outstanding += 1;
        match self.key_locks.entry(job.outgoing.reading_key) {
            Entry::Vacant(entry) => {
                entry.insert(KeyLock {
                    holders: 1,
                    waiting: VecDeque::new(),
                });
                self.ready.push_back(job);
                true
            }
            Entry::Occupied(mut lock) if is_overlapping(&job) && lock.get().waiting.is_empty() => {
                lock.get_mut().holders += 1;
                self.ready.push_back(job);
                true
            }
            Entry::Occupied(mut lock) => {
                job.outgoing.detach();
                lock.get_mut().waiting.push_back(job);
                self.blocked += 1;
                false
            }
        }
    }

    /// The next job that can be sent now.
    pub(super) fn next(&mut self) -> Option<SendJob> {
        self.ready.pop_front()
    }

    /// Pauses a job until its next try. It keeps its key.
    pub(super) fn pause(&mut self, mut job: SendJob, until: Instant) {
        job.outgoing.detach();
        self.pause_count += 1;
        let order = self.pause_count;
        self.paused.push(Reverse(PausedJob { until, order, job }));
    }

    /// Moves jobs whose pause is over to the front of the queue, because their window is short.
    /// Returns their number.
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

    /// Finishes a job with this key. Returns the number of jobs that became ready.
    pub(super) fn finish(&mut self, key: u64) -> usize {
        self.outstanding -= 1;
        self.release(key)
    }

    /// Holds a key for a try that waits for a late response, in addition to its job.
    pub(super) fn hold(&mut self, key: u64) {
        match self.key_locks.get_mut(&key) {
            Some(lock) => lock.holders += 1,
            None => debug_assert!(false, "the job of this key has already ended"),
        }
    }

    /// Releases one hold on a key. Returns the number of jobs that became ready.
    pub(super) fn release(&mut self, key: u64) -> usize {
        let Entry::Occupied(mut lock) = self.key_locks.entry(key) else {
            debug_assert!(false, "a key was released twice");
            return 0;
        };
        let KeyLock { holders, waiting } = lock.get_mut();
        if *holders > 1 {
            *holders -= 1;
            return 0;
        }
        let Some(next) = waiting.pop_front() else {
            lock.remove();
            return 0;
        };
        let now = Instant::now();
        let mut ready_jobs = vec![next];
        while waiting.front().is_some_and(is_overlapping) {
            ready_jobs.extend(waiting.pop_front());
        }
        *holders = ready_jobs.len();
        let ready = ready_jobs.len();
        self.blocked -= ready;
        for mut job in ready_jobs.into_iter().rev() {
            job.restart_window(now);
            self.ready.push_front(job);
        }
        ready
    }

    /// Returns `true` if there is work, and all of it waits for late responses.
    pub(super) fn is_blocked(&self) -> bool {
        self.outstanding > 0 && self.blocked == self.outstanding
    }

    /// Removes and finishes all waiting jobs. Jobs that are being tried stay. No more jobs may be
    /// admitted afterwards.
    pub(super) fn drain_waiting(&mut self) -> Vec<SendJob> {
        let mut all: Vec<SendJob> = self.ready.drain(..).collect();
        all.extend(self.paused.drain().map(|p| p.0.job));
        let waiting = self.key_locks.values_mut().map(|lock| &mut lock.waiting);
        all.extend(waiting.flat_map(|waiting| waiting.drain(..)));
        self.blocked = 0;
        self.outstanding -= all.len();
        all
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Number of unfinished jobs.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }
}

/// Returns `true` for a copy that is sent together with its original.
fn is_overlapping(job: &SendJob) -> bool {
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
    fn jobs_of_one_key_are_sequential() {
        let mut queue = SendQueue::default();
        for (due_ms, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
            let mut job = job(key);
            job.outgoing.due_ms = due_ms;
            queue.admit(job);
        }
        let first = queue.next().unwrap();
        assert_eq!(next(&mut queue), Some(8));
        assert_eq!(next(&mut queue), None, "7 is being tried");
        let now = Instant::now();
        queue.pause(first, now + Duration::from_secs(1));
        assert_eq!(queue.resume(now), 0);
        assert_eq!(next(&mut queue), None, "7 is paused and keeps its key");
        assert_eq!(queue.resume(now + Duration::from_secs(1)), 1);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 1);
        assert_eq!(queue.finish(7), 1);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 2);
        assert_eq!(queue.finish(7), 1);
        assert_eq!(queue.finish(8), 0);
        assert_eq!(queue.next().unwrap().outgoing.due_ms, 4);
        assert_eq!(queue.finish(7), 0);
        assert_eq!(queue.outstanding(), 0);
        assert!(queue.key_locks.is_empty(), "memory is released");
    }

    #[test]
    fn a_key_is_free_once_nobody_waits_for_a_late_response() {
        let mut queue = SendQueue::default();
        queue.admit(job(7));
        queue.admit(job(7));
        assert!(!queue.is_blocked(), "the first is ready");
        let first = queue.next().unwrap();
        queue.hold(7);
        queue.hold(7);
        assert_eq!(queue.release(7), 0, "one listener and one unfinished job");
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
        assert!(queue.key_locks.is_empty(), "memory is released");
    }

    #[test]
    fn an_overlapping_copy_is_sent_with_its_original() {
        let copy = || SendJob::new(outgoing(7, DeliveryKind::Overlapping), None);
        let kinds = |queue: &mut SendQueue| {
            let all = std::iter::from_fn(|| queue.next());
            all.map(|job| job.outgoing.kind).collect::<Vec<_>>()
        };
        let both = [DeliveryKind::First, DeliveryKind::Overlapping];
        let mut queue = SendQueue::default();
        assert!(queue.admit(job(7)));
        assert!(queue.admit(copy()), "nothing comes between them");
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
        // A copy whose original has ended is sent alone.
        assert!(queue.admit(copy()));
        assert_eq!(kinds(&mut queue), [DeliveryKind::Overlapping]);
        assert_eq!(queue.finish(7), 0);
        assert_eq!(queue.outstanding(), 0);
        assert!(queue.key_locks.is_empty(), "memory is released");
    }

    #[test]
    fn paused_jobs_come_first_and_in_order() {
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
    fn draining_leaves_only_jobs_that_are_being_tried() {
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
