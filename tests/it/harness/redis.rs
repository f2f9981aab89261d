//! Redis server that a test can kill, pause and restart.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Names the programs that a test with Redis needs and this machine lacks.
pub fn missing_requirements() -> &'static [&'static str] {
    match find_program() {
        Some(_) => &[],
        None => &["redis-server or valkey-server on PATH"],
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/bin".into());
    let programs = ["redis-server", "valkey-server"];
    let mut all = programs
        .iter()
        .flat_map(|program| folders.iter().map(move |folder| folder.join(program)));
    all.find(|program| program.is_file())
}

/// Returns a free port below the range that systems use for outgoing connections, so that none of
/// these takes the port while the server is down.
fn find_free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time start at different ports.
    let start = std::process::id().wrapping_mul(101);
    let mut ports = (0..10_000).map(|_| {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        10_000 + (number % 10_000) as u16
    });
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Redis server of one test, empty at each start unless it was told to [`save`](Self::save); killed
/// on drop.
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server on a free port, with these additional arguments.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        for _ in 0..20 {
            let mut server = Self {
                port: find_free_port(),
                arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
                child: None,
            };
            let _ = std::fs::remove_file(server.snapshot());
            if server.try_start() {
                return server;
            }
            // Another process took the port.
        }
        panic!("no Redis on any port");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns a path that no other test or earlier run uses.
    fn snapshot(&self) -> PathBuf {
        let name = format!("butlr-bridge-{}-{}.rdb", std::process::id(), self.port);
        std::env::temp_dir().join(name)
    }

    /// Returns the port, which a restart does not change.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes a snapshot, which the next start loads.
    #[track_caller]
    pub fn save(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it runs");
        stream.write_all(b"SAVE\r\n").expect("it listens");
        let mut response = [0; 3];
        stream.read_exact(&mut response).expect("a response");
        assert_eq!(&response, b"+OK");
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Restarts the server with the last snapshot, or empty if there is none.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.try_start(), "no Redis on port {}", self.port);
    }

    /// Starts the server. Returns `false` unless it runs and answers.
    fn try_start(&mut self) -> bool {
        self.kill();
        let program = find_program().expect("the test is skipped without it");
        let port = self.port.to_string();
        let child = Command::new(program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(std::env::temp_dir())
            .arg("--dbfilename")
            .args(self.snapshot().file_name())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server starts"));
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(10) {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            if self.is_answering() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Returns `true` if the server has loaded its data. One that requires a password says so
    /// first.
    fn is_answering(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut response = [0; 5];
            stream.read_exact(&mut response)?;
            Ok::<_, std::io::Error>(response)
        };
        matches!(ask(), Ok(response) if [b"+PONG", b"-NOAU"].contains(&&response))
    }

    /// Stops the process: connections stay open but get no response.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Continues the process.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill").success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.snapshot());
    }
}
