//! A Redis of the test's own, to be killed, paused and started again.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What such a test needs, where it is missing.
pub fn needs() -> &'static [&'static str] {
    match program() {
        Some(_) => &[],
        None => &["redis-server or valkey-server on PATH"],
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/bin".into());
    let programs = ["redis-server", "valkey-server"];
    let mut all = programs
        .iter()
        .flat_map(|program| folders.iter().map(move |folder| folder.join(program)));
    all.find(|program| program.is_file())
}

/// Empty at each start; killed when dropped.
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port, with these arguments in addition.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut server = Self {
            port: free.local_addr().expect("bound").port(),
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            child: None,
        };
        drop(free);
        server.start_again();
        server
    }

    /// Its address, for anyone.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port, the same after a kill and a start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, without anything it knew.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.kill();
        let program = program().expect("the test is skipped without it");
        let port = self.port.to_string();
        let child = Command::new(program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--dir", "/tmp"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server starts"));
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "no Redis");
            std::thread::sleep(Duration::from_millis(10));
        }
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
    }
}
