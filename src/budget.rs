//! In-flight budget: the events and bytes that the bridge holds at a time, each with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::HttpConfig;
use crate::rejection::{CapacityLimit, Rejection};

/// Counts the events and bytes in flight and rejects at once what exceeds a limit.
#[derive(Debug)]
pub struct InFlightBudget {
    /// Events admitted and not yet answered.
    pub events: BoundedCounter,
    /// Bytes of request bodies in memory.
    pub bytes: BoundedCounter,
}

impl InFlightBudget {
    /// Creates an unused budget with the configured limits.
    pub fn new(http: &HttpConfig) -> Arc<Self> {
        Arc::new(Self {
            events: BoundedCounter::new(http.max_in_flight_events),
            bytes: BoundedCounter::new(http.max_in_flight_bytes),
        })
    }

    /// Checks that there is room for more. Cheap, so it runs before a request is read.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn check(&self) -> Result<(), Rejection> {
        if self.events.is_full() {
            return Err(Rejection::Overloaded(CapacityLimit::Events));
        }
        if self.bytes.is_full() {
            return Err(Rejection::Overloaded(CapacityLimit::Bytes));
        }
        Ok(())
    }

    /// Creates an empty permit for one request.
    pub fn new_permit(self: &Arc<Self>) -> RequestPermit {
        RequestPermit {
            budget: Arc::clone(self),
            events: 0,
            bytes: 0,
        }
    }
}

/// A request's share of the budget, returned on drop.
#[derive(Debug)]
pub struct RequestPermit {
    budget: Arc<InFlightBudget>,
    events: usize,
    bytes: usize,
}

impl RequestPermit {
    /// Takes `amount` more bytes from the budget.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn take_bytes(&mut self, amount: usize) -> Result<(), Rejection> {
        if !self.budget.bytes.try_take(amount) {
            return Err(Rejection::Overloaded(CapacityLimit::Bytes));
        }
        self.bytes += amount;
        Ok(())
    }

    /// Takes `amount` more events from the budget.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn take_events(&mut self, amount: usize) -> Result<(), Rejection> {
        if !self.budget.events.try_take(amount) {
            return Err(Rejection::Overloaded(CapacityLimit::Events));
        }
        self.events += amount;
        Ok(())
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.budget.events.release(self.events);
        self.budget.bytes.release(self.bytes);
    }
}

/// A count with a limit.
#[derive(Debug)]
pub struct BoundedCounter {
    count: AtomicUsize,
    limit: usize,
}

impl BoundedCounter {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            limit,
        }
    }

    /// Returns the current count.
    pub fn current(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Returns the configured limit.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn is_full(&self) -> bool {
        self.current() >= self.limit
    }

    fn try_take(&self, amount: usize) -> bool {
        let before = self.take_over_limit(amount);
        let fits = before.saturating_add(amount) <= self.limit;
        if !fits {
            self.release(amount);
        }
        fits
    }

    /// Adds `amount` even above the limit and returns the count before.
    pub(crate) fn take_over_limit(&self, amount: usize) -> usize {
        self.count.fetch_add(amount, Ordering::AcqRel)
    }

    pub(crate) fn release(&self, amount: usize) {
        self.count.fetch_sub(amount, Ordering::AcqRel);
    }
}
