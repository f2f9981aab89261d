//! A network between a client and a server on loopback, as bad as a test wants it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::frames::{ProduceRequests, RequestObserver, ResponseTamperer};

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkCondition {
    /// It passes at once.
    Normal,
    /// Each piece of up to 64 KiB is held back for so long: a slow and narrow line.
    Slow(Duration),
    /// Connections are there and new ones are taken, but nothing comes through, either way.
    Silent,
    /// Half open: what the client sends arrives, what is answered does not.
    AnswersLost,
    /// Nobody listens, and nothing is connected.
    Refusing,
}

/// How often the listener looks whether the weather has changed.
const LISTENER_POLL: Duration = Duration::from_millis(5);

/// Listens on one port and passes everything on to another, in good weather. Ends with all its connections when dropped.
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
    /// So many of Kafka's answers "stored" are turned into errors that are fatal to a producer.
    contradictions: u32,
    /// Those cut off since do not go on, whatever the weather.
    cut: u64,
    /// Both ends of each connection.
    open: Vec<(TcpStream, TcpStream)>,
    stopped: bool,
}

impl FaultyProxy {
    /// From `listen` to `server`, which need not be there.
    ///
    /// # Errors
    /// Somebody else listens there.
    pub fn start(listen: SocketAddr, server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let sky = Arc::new(ProxyShared {
            state: Mutex::new(ProxyState {
                condition: NetworkCondition::Normal,
                contradictions: 0,
                cut: 0,
                open: Vec::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let shared = Arc::clone(&sky);
        let listening = std::thread::spawn(move || shared.listen(listen, server, listener));
        let listening = Some(listening);
        Ok(Self {
            shared: sky,
            listening,
        })
    }

    /// From now on.
    pub fn set_condition(&self, weather: NetworkCondition) {
        self.shared.state().condition = weather;
        if weather == NetworkCondition::Refusing {
            self.cut_connections();
        }
        self.shared.changed.notify_all();
    }

    /// The next answer of a Kafka that says "stored" becomes one that is fatal to a producer. Whether it came to that is what
    /// [`Proxy::calm`] says.
    pub fn arm_contradiction(&self) {
        self.shared.state().contradictions = 1;
    }

    /// No further answer is changed. Whether one was since [`Proxy::contradict`].
    pub fn disarm_contradiction(&self) -> bool {
        std::mem::take(&mut self.shared.state().contradictions) == 0
    }

    /// Ends all connections. What was on its way is lost.
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
        self.state.lock().expect("no panic holds it")
    }

    fn listen(self: Arc<Self>, at: SocketAddr, server: SocketAddr, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let (weather, over) = {
                let state = self.state();
                (state.condition, state.stopped)
            };
            if over {
                return;
            }
            if weather == NetworkCondition::Refusing {
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

    /// A client whose server is not there is hung up on.
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
        let mut answers = ResponseTamperer::new(&produces);
        let (from, to) = (copy(&client), copy(&server));
        let sky = Arc::clone(self);
        std::thread::spawn(move || {
            sky.pump(from, to, false, cut, |piece| requests.observe(piece));
        });
        let sky = Arc::clone(self);
        std::thread::spawn(move || {
            sky.pump(server, client, true, cut, |piece| {
                let wanted = sky.state().contradictions;
                let made = answers.tamper(piece, wanted);
                let mut state = sky.state();
                state.contradictions = state.contradictions.saturating_sub(made);
            });
        });
    }

    /// Passes on what comes until one of the two hangs up.
    fn pump(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        is_answer: bool,
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
            if !self.may_pass(is_answer, cut) || to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        // The other direction of the same connection has ended, too: neither is kept any longer.
        let mut state = self.state();
        state.open.retain(|(client, _)| client.peer_addr().is_ok());
    }

    /// Waits until the weather lets it pass; not when its connection is cut off before.
    fn may_pass(&self, is_answer: bool, cut: u64) -> bool {
        let came = Instant::now();
        let mut state = self.state();
        loop {
            if state.cut != cut || state.stopped {
                return false;
            }
            let left = match state.condition {
                NetworkCondition::Normal => return true,
                NetworkCondition::Slow(delay) => delay.saturating_sub(came.elapsed()),
                NetworkCondition::AnswersLost if !is_answer => return true,
                // Until the weather changes.
                _ => Duration::from_secs(1),
            };
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.expect("no panic holds it").0;
        }
    }
}
