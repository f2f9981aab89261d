//! What the ingest listener holds at a time: connections, events and bytes, each with a limit.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use crate::rejection::{CapacityLimit, Rejection};

/// Beyond `http.max_connections`, so many more are answered 503 (a sender sees why); yet more are closed unanswered.
const MAX_EXCESS_CONNECTIONS: usize = 256;

/// Counts what is held and refuses more than the limits, at once.
#[derive(Debug)]
pub struct AdmissionGate {
    /// Open connections.
    pub connections: BoundedCounter,
    /// Events taken and not yet answered.
    pub events: BoundedCounter,
    /// Bytes of bodies held.
    pub bytes: BoundedCounter,
    draining: AtomicBool,
    started: Instant,
    next_number: AtomicU64,
    open_connections: Mutex<HashMap<u64, (Socket, Arc<IdleSince>)>>,
}

/// Since when a connection has no request: ms after the gate's start, or [`BUSY`].
#[derive(Debug)]
struct IdleSince(AtomicU64);

const BUSY: u64 = u64::MAX;

/// One quantity with its limit.
#[derive(Debug)]
pub struct BoundedCounter {
    count: AtomicUsize,
    limit: usize,
}

impl BoundedCounter {
    fn new(limit: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            limit,
        }
    }

    /// How much is held.
    pub fn current(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How much may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn try_take(&self, amount: usize) -> bool {
        let before = self.count.fetch_add(amount, Ordering::AcqRel);
        let fits = before.saturating_add(amount) <= self.limit;
        if !fits {
            self.release(amount);
        }
        fits
    }

    fn release(&self, amount: usize) {
        self.count.fetch_sub(amount, Ordering::AcqRel);
    }
}

impl AdmissionGate {
    /// An empty gate.
    pub fn new(http: &crate::config::HttpConfig) -> Arc<Self> {
        Arc::new(Self {
            connections: BoundedCounter::new(http.max_connections),
            events: BoundedCounter::new(http.max_in_flight_events),
            bytes: BoundedCounter::new(http.max_in_flight_bytes),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            next_number: AtomicU64::new(0),
            open_connections: Mutex::default(),
        })
    }

    fn lock_connections(&self) -> MutexGuard<'_, HashMap<u64, (Socket, Arc<IdleSince>)>> {
        self.open_connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, now: Instant) -> u64 {
        (now - self.started).as_millis() as u64
    }

    /// Closes the connections that have had no request for longer than `bound`.
    ///
    /// actix-web's own timers bound the head of a connection's first request, and idle connections until a byte arrives;
    /// a client that drips the head of its second request is bounded by neither.
    pub fn close_idle(&self, bound: Duration) {
        let now = self.millis(Instant::now());
        let bound = bound.as_millis() as u64;
        for (socket, idle) in self.lock_connections().values() {
            let since = idle.0.load(Ordering::Relaxed);
            if since != BUSY && now.saturating_sub(since) > bound {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// From now on requests are answered with `Connection: close`.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the bridge is ending.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether a request may be read at all: cheap, before anything else is done for it.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn admit(&self, connection: Option<&IngestConnection>) -> Result<(), Rejection> {
        if connection.is_some_and(|c| c.is_over_limit) {
            return Err(Rejection::Overloaded(CapacityLimit::Connections));
        }
        if self.events.current() >= self.events.limit {
            return Err(Rejection::Overloaded(CapacityLimit::Events));
        }
        if self.bytes.current() >= self.bytes.limit {
            return Err(Rejection::Overloaded(CapacityLimit::Bytes));
        }
        Ok(())
    }

    /// Nothing held yet, for one request.
    pub fn new_permit(self: &Arc<Self>) -> RequestPermit {
        RequestPermit {
            gate: Arc::clone(self),
            events: 0,
            bytes: 0,
        }
    }

    /// Counts a connection for as long as the returned value lives; closes it when there are far too many.
    pub fn register_connection(self: &Arc<Self>, socket: SockRef<'_>) -> IngestConnection {
        let before = self.connections.count.fetch_add(1, Ordering::AcqRel);
        if before >= self.connections.limit + MAX_EXCESS_CONNECTIONS {
            // The HTTP server sees a client that has gone.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let idle = Arc::new(IdleSince(AtomicU64::new(self.millis(Instant::now()))));
        if let Ok(socket) = socket.try_clone() {
            self.lock_connections()
                .insert(number, (socket, Arc::clone(&idle)));
        }
        IngestConnection {
            gate: Arc::clone(self),
            is_over_limit: before >= self.connections.limit,
            number,
            idle,
        }
    }
}

/// What one request holds, given back when dropped.
#[derive(Debug)]
pub struct RequestPermit {
    gate: Arc<AdmissionGate>,
    events: usize,
    bytes: usize,
}

impl RequestPermit {
    /// Takes room for so many bytes more.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn take_bytes(&mut self, more: usize) -> Result<(), Rejection> {
        if !self.gate.bytes.try_take(more) {
            return Err(Rejection::Overloaded(CapacityLimit::Bytes));
        }
        self.bytes += more;
        Ok(())
    }

    /// Takes room for so many events more.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`]
    pub fn take_events(&mut self, more: usize) -> Result<(), Rejection> {
        if !self.gate.events.try_take(more) {
            return Err(Rejection::Overloaded(CapacityLimit::Events));
        }
        self.events += more;
        Ok(())
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.gate.events.release(self.events);
        self.gate.bytes.release(self.bytes);
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct IngestConnection {
    gate: Arc<AdmissionGate>,
    is_over_limit: bool,
    number: u64,
    idle: Arc<IdleSince>,
}

impl IngestConnection {
    /// A request has begun.
    pub fn mark_busy(&self) {
        self.idle.0.store(BUSY, Ordering::Relaxed);
    }

    /// A request was answered.
    pub fn mark_idle(&self, now: Instant) {
        self.idle.0.store(self.gate.millis(now), Ordering::Relaxed);
    }

    /// Whether it came when there were as many as are allowed.
    pub fn is_over_limit(&self) -> bool {
        self.is_over_limit
    }
}

impl Drop for IngestConnection {
    fn drop(&mut self) {
        self.gate.lock_connections().remove(&self.number);
        self.gate.connections.release(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_connections_without_a_request_are_closed_as_idle() {
        let config = crate::config::load(&Default::default(), &|_, _| Ok(())).unwrap();
        let gate = AdmissionGate::new(&config.http);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        let servers = [(); 3].map(|()| listener.accept().unwrap().0);
        let [busy, answered, _silent] =
            [0, 1, 2].map(|i| gate.register_connection(SockRef::from(&servers[i])));
        busy.mark_busy();
        answered.mark_busy();
        answered.mark_idle(Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let mut closed = || {
            clients.each_mut().map(|client| {
                client.set_nonblocking(true).unwrap();
                matches!(client.read(&mut [0]), Ok(0))
            })
        };
        gate.close_idle(Duration::from_secs(3600));
        assert_eq!(closed(), [false; 3]);
        gate.close_idle(Duration::from_millis(10));
        assert_eq!(closed(), [false, true, true]);
    }
}
