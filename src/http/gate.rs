//! What the ingest listener holds at a time: connections, events and bytes, each with a limit.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use socket2::SockRef;

use crate::rejection::{Limit, Rejection};

/// Beyond `http.max_connections`, so many more are answered 503 (a sender sees why); yet more are closed unanswered.
const ANSWERED_BEYOND: usize = 256;

/// Counts what is held and refuses more than the limits, at once.
#[derive(Debug)]
pub struct Gate {
    /// Open connections.
    pub connections: Held,
    /// Events taken and not yet answered.
    pub events: Held,
    /// Bytes of bodies held.
    pub bytes: Held,
    draining: AtomicBool,
}

/// One quantity with its limit.
#[derive(Debug)]
pub struct Held {
    now: AtomicUsize,
    limit: usize,
}

impl Held {
    fn new(limit: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            limit,
        }
    }

    /// How much is held.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    /// How much may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn take(&self, amount: usize) -> bool {
        let before = self.now.fetch_add(amount, Ordering::AcqRel);
        let fits = before.saturating_add(amount) <= self.limit;
        if !fits {
            self.give_back(amount);
        }
        fits
    }

    fn give_back(&self, amount: usize) {
        self.now.fetch_sub(amount, Ordering::AcqRel);
    }
}

impl Gate {
    /// An empty gate.
    pub fn new(http: &crate::config::Http) -> Arc<Self> {
        Arc::new(Self {
            connections: Held::new(http.max_connections),
            events: Held::new(http.max_in_flight_events),
            bytes: Held::new(http.max_in_flight_bytes),
            draining: AtomicBool::new(false),
        })
    }

    /// From now on requests are answered with `Connection: close`.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the bridge is ending.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether a request may be read at all: cheap, before anything else is done for it.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn admit(&self, connection: Option<&Connection>) -> Result<(), Rejection> {
        if connection.is_some_and(|c| c.beyond_limit) {
            return Err(Rejection::Overloaded(Limit::Connections));
        }
        if self.events.now() >= self.events.limit {
            return Err(Rejection::Overloaded(Limit::Events));
        }
        if self.bytes.now() >= self.bytes.limit {
            return Err(Rejection::Overloaded(Limit::Bytes));
        }
        Ok(())
    }

    /// Nothing held yet, for one request.
    pub fn permit(self: &Arc<Self>) -> Permit {
        Permit {
            gate: Arc::clone(self),
            events: 0,
            bytes: 0,
        }
    }

    /// Counts a connection for as long as the returned value lives; closes it when there are far too many.
    pub fn connected(self: &Arc<Self>, socket: SockRef<'_>) -> Connection {
        let before = self.connections.now.fetch_add(1, Ordering::AcqRel);
        if before >= self.connections.limit + ANSWERED_BEYOND {
            // The HTTP server sees a client that has gone.
            let _ = socket.shutdown(Shutdown::Both);
        }
        Connection {
            gate: Arc::clone(self),
            beyond_limit: before >= self.connections.limit,
        }
    }
}

/// What one request holds, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    events: usize,
    bytes: usize,
}

impl Permit {
    /// Takes room for so many bytes more.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn bytes(&mut self, more: usize) -> Result<(), Rejection> {
        if !self.gate.bytes.take(more) {
            return Err(Rejection::Overloaded(Limit::Bytes));
        }
        self.bytes += more;
        Ok(())
    }

    /// Takes room for so many events more.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn events(&mut self, more: usize) -> Result<(), Rejection> {
        if !self.gate.events.take(more) {
            return Err(Rejection::Overloaded(Limit::Events));
        }
        self.events += more;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.events.give_back(self.events);
        self.gate.bytes.give_back(self.bytes);
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Connection {
    gate: Arc<Gate>,
    beyond_limit: bool,
}

impl Connection {
    /// Whether it came when there were as many as are allowed.
    pub fn is_beyond_limit(&self) -> bool {
        self.beyond_limit
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gate.connections.give_back(1);
    }
}
