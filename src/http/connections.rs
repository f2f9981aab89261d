//! Connection table of the ingest listener: connection limit, idle sweep, draining.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use crate::budget::BoundedCounter;
use crate::sync::lock;

/// Connections above the limit that still get a 503, so that the sender sees why; further ones are
/// closed without a response.
const MAX_EXCESS_CONNECTIONS: usize = 256;

/// The open connections of the ingest listener.
#[derive(Debug)]
pub struct ConnectionTable {
    /// Open connections, those above the limit included.
    pub count: BoundedCounter,
    draining: AtomicBool,
    started_at: Instant,
    next_id: AtomicU64,
    sockets: Mutex<SocketMap>,
}

/// Duplicated handles of the open sockets, by connection id.
type SocketMap = HashMap<u64, (Socket, Arc<IdleSince>)>;

/// Start of a connection's idle time: milliseconds after the table's start, or [`BUSY`].
#[derive(Debug)]
struct IdleSince(AtomicU64);

/// Marks a connection with a request under way.
const BUSY: u64 = u64::MAX;

impl ConnectionTable {
    /// Creates an empty table that admits `max_connections` connections.
    pub fn new(max_connections: usize) -> Arc<Self> {
        Arc::new(Self {
            count: BoundedCounter::new(max_connections),
            draining: AtomicBool::new(false),
            started_at: Instant::now(),
            next_id: AtomicU64::new(0),
            sockets: Mutex::default(),
        })
    }

    fn lock_sockets(&self) -> MutexGuard<'_, SocketMap> {
        lock(&self.sockets)
    }

    fn to_millis(&self, instant: Instant) -> u64 {
        (instant - self.started_at).as_millis() as u64
    }

    /// Closes connections that have been without a request for longer than `max_idle`.
    ///
    /// actix-web's own timers limit the head of a connection's first request, and the idle time
    /// until the next byte arrives. They do not limit a client that drips the head of its second
    /// request.
    pub fn close_idle(&self, max_idle: Duration) {
        let now = self.to_millis(Instant::now());
        let max_idle = max_idle.as_millis() as u64;
        for (socket, idle_since) in self.lock_sockets().values() {
            let since = idle_since.0.load(Ordering::Relaxed);
            if since != BUSY && now.saturating_sub(since) > max_idle {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Starts draining: each response from now on closes its connection.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Returns `true` once the bridge is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Registers a connection for the lifetime of the returned value. Closes the socket if there
    /// are more than the limit and its excess.
    pub fn register(self: &Arc<Self>, socket: SockRef<'_>) -> IngestConnection {
        let before = self.count.take_over_limit(1);
        if before >= self.count.limit() + MAX_EXCESS_CONNECTIONS {
            // The HTTP server sees a client that has disconnected.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let now = self.to_millis(Instant::now());
        let idle_since = Arc::new(IdleSince(AtomicU64::new(now)));
        if let Ok(socket) = socket.try_clone() {
            self.lock_sockets()
                .insert(id, (socket, Arc::clone(&idle_since)));
        }
        IngestConnection {
            table: Arc::clone(self),
            is_over_limit: before >= self.count.limit(),
            id,
            idle_since,
        }
    }
}

/// A registered connection; leaves the table on drop.
#[derive(Debug)]
pub struct IngestConnection {
    table: Arc<ConnectionTable>,
    is_over_limit: bool,
    id: u64,
    idle_since: Arc<IdleSince>,
}

impl IngestConnection {
    /// Marks the start of a request.
    pub fn mark_busy(&self) {
        self.idle_since.0.store(BUSY, Ordering::Relaxed);
    }

    /// Marks the end of a request: the connection is idle from `now` on.
    pub fn mark_idle(&self, now: Instant) {
        let now = self.table.to_millis(now);
        self.idle_since.0.store(now, Ordering::Relaxed);
    }

    /// Returns `true` if the limit was already reached when the connection arrived.
    pub fn is_over_limit(&self) -> bool {
        self.is_over_limit
    }
}

impl Drop for IngestConnection {
    fn drop(&mut self) {
        self.table.lock_sockets().remove(&self.id);
        self.table.count.release(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_sweep_closes_only_connections_without_a_request() {
        let config = crate::config::load(&Default::default(), &|_, _| Ok(())).unwrap();
        let table = ConnectionTable::new(config.http.max_connections);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        let servers = [(); 3].map(|()| listener.accept().unwrap().0);
        let [busy, answered, _silent] =
            [0, 1, 2].map(|i| table.register(SockRef::from(&servers[i])));
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
        table.close_idle(Duration::from_secs(3600));
        assert_eq!(closed(), [false; 3]);
        table.close_idle(Duration::from_millis(10));
        assert_eq!(closed(), [false, true, true]);
    }
}
