//! TCP proxy on loopback that simulates network faults.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::frames::{ProduceRequests, RequestObserver, ResponseTamperer};

/// State of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkCondition {
    /// Data passes at once.
    Normal,
    /// Each piece of up to 64 KiB is delayed by this much: a slow, narrow line.
    Slow(Duration),
    /// Connections stay open and new ones are accepted, but no data passes in either direction.
    Silent,
    /// Requests arrive, responses do not.
    ResponsesLost,
    /// The port is closed and all connections are cut.
    Refusing,
}

/// Interval at which the listener checks for a changed condition.
const LISTENER_POLL: Duration = Duration::from_millis(5);

/// Proxy from one port to another; passes everything on until told otherwise. Closes all
/// connections on drop.
pub struct FaultyProxy {
    shared: Arc<ProxyShared>,
    listening: Option<JoinHandle<()>>,
}

struct ProxyShared {
    state: Mutex<ProxyState>,
    changed: Condvar,
}

struct ProxyState {
    condition: NetworkCondition,
    /// Successful *Produce* responses still to be turned into fatal errors.
    contradictions: u32,
    /// Number of cuts so far. A connection opened before the last cut stops, whatever the
    /// condition.
    cut: u64,
    /// Client side and server side of each connection.
    open: Vec<(TcpStream, TcpStream)>,
    stopped: bool,
}

impl FaultyProxy {
    /// Starts a proxy from `listen` to `server`, which need not be up.
    ///
    /// # Errors
    /// The port `listen` is in use.
    pub fn start(listen: SocketAddr, server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let shared = Arc::new(ProxyShared {
            state: Mutex::new(ProxyState {
                condition: NetworkCondition::Normal,
                contradictions: 0,
                cut: 0,
                open: Vec::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let listening = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.listen(listen, server, listener)
        });
        let listening = Some(listening);
        Ok(Self { shared, listening })
    }

    pub fn set_condition(&self, condition: NetworkCondition) {
        self.shared.state().condition = condition;
        if condition == NetworkCondition::Refusing {
            self.cut_connections();
        }
        self.shared.changed.notify_all();
    }

    /// Turns the next successful *Produce* response into an error that is fatal for a producer.
    /// [`disarm_contradiction`](Self::disarm_contradiction) tells if that happened.
    pub fn arm_contradiction(&self) {
        self.shared.state().contradictions = 1;
    }

    /// Leaves further responses unchanged. Returns `true` if one was changed since
    /// [`arm_contradiction`](Self::arm_contradiction).
    pub fn disarm_contradiction(&self) -> bool {
        std::mem::take(&mut self.shared.state().contradictions) == 0
    }

    /// Cuts all connections. Data in flight is lost.
    pub fn cut_connections(&self) {
        let mut state = self.shared.state();
        state.cut += 1;
        for (client, server) in state.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.cut_connections();
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl ProxyShared {
    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().expect("lock not poisoned")
    }

    fn listen(self: Arc<Self>, at: SocketAddr, server: SocketAddr, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let (condition, over) = {
                let state = self.state();
                (state.condition, state.stopped)
            };
            if over {
                return;
            }
            if condition == NetworkCondition::Refusing {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(at).ok();
            }
            if let Some(listener) = &listener
                && listener.set_nonblocking(true).is_ok()
            {
                while let Ok((client, _)) = listener.accept() {
                    self.connect(client, server);
                }
            }
            std::thread::sleep(LISTENER_POLL);
        }
    }

    /// Connects a client to the server, or closes the connection if the server is down.
    fn connect(self: &Arc<Self>, client: TcpStream, server: SocketAddr) {
        let Ok(server) = TcpStream::connect_timeout(&server, Duration::from_secs(1)) else {
            return;
        };
        let _ = client.set_nonblocking(false);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        let mut state = self.state();
        let cut = state.cut;
        state.open.push((copy(&client), copy(&server)));
        drop(state);
        let produces = ProduceRequests::default();
        let mut requests = RequestObserver::new(&produces);
        let mut responses = ResponseTamperer::new(&produces);
        let (from, to) = (copy(&client), copy(&server));
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            shared.pump(from, to, false, cut, |piece| requests.observe(piece));
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            shared.pump(server, client, true, cut, |piece| {
                let wanted = shared.state().contradictions;
                let made = responses.tamper(piece, wanted);
                let mut state = shared.state();
                state.contradictions = state.contradictions.saturating_sub(made);
            });
        });
    }

    /// Copies data from one side to the other until either of them closes.
    fn pump(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        is_response: bool,
        cut: u64,
        mut see: impl FnMut(&mut [u8]),
    ) {
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            see(&mut piece[..read]);
            if !self.may_pass(is_response, cut) || to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        // The other direction has ended too, so both sides can be dropped.
        let mut state = self.state();
        state.open.retain(|(client, _)| client.peer_addr().is_ok());
    }

    /// Waits until the condition lets the data pass. Returns `false` if the connection is cut
    /// first.
    fn may_pass(&self, is_response: bool, cut: u64) -> bool {
        let came = Instant::now();
        let mut state = self.state();
        loop {
            if state.cut != cut || state.stopped {
                return false;
            }
            let left = match state.condition {
                NetworkCondition::Normal => return true,
                NetworkCondition::Slow(delay) => delay.saturating_sub(came.elapsed()),
                NetworkCondition::ResponsesLost if !is_response => return true,
                // Woken when the condition changes.
                _ => Duration::from_secs(1),
            };
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.expect("lock not poisoned").0;
        }
    }
}
