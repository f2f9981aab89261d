//! A Redis of the test's own, to be killed, paused and started again.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What such a test needs, where it is missing.
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

/// Empty at each start, but for what a test had it `SAVE`; killed when dropped.
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port, with these arguments in addition.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let mut server = Self {
                port: free.local_addr().expect("bound").port(),
                arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
                child: None,
            };
            drop(free);
            let _ = std::fs::remove_file(server.snapshot());
            if server.try_start() {
                return server;
            }
            // Somebody else was faster.
        }
        panic!("no Redis on any port");
    }

    /// Its address, for anyone.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// No other test's, nor one of an earlier run.
    fn snapshot(&self) -> PathBuf {
        let name = format!("butlr-bridge-{}-{}.rdb", std::process::id(), self.port);
        std::env::temp_dir().join(name)
    }

    /// Its port, the same after a kill and a start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Has it write down what it knows, for when it is started again.
    #[track_caller]
    pub fn save(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it runs");
        stream.write_all(b"SAVE\r\n").expect("it listens");
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+OK");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, without anything it knew, but for what it had to `SAVE`.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.try_start(), "no Redis on port {}", self.port);
    }

    /// Whether it runs, and is the one that answers there.
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

    /// Whether it has loaded what it has; one that wants a password first says so.
    fn is_answering(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        matches!(ask(), Ok(answer) if [b"+PONG", b"-NOAU"].contains(&&answer))
    }

    /// Lets it stand still: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it run on.
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
