//! A small scripted HTTP server for tests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Reaction to a request.
#[derive(Clone, Debug)]
pub enum ServerAction {
    Respond(u16, &'static str),
    /// Respond, then close the connection.
    RespondAndClose(u16, &'static str),
    RespondAfter(Duration, u16, &'static str),
    Close,
    Hang,
}

pub const PUBLISHED: &str =
    r#"{"status":"published","id":"x","topic":"t","partition":1,"offset":2}"#;

pub const REDELIVERY: &str = r#"{"status":"duplicate","kind":"redelivery","id":"x"}"#;

/// A request that the server received.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    pub head: String,
    /// Type, space and timestamp.
    pub reading: String,
    pub id: String,
    /// Time of the request, and of its response.
    pub at: (Instant, Instant),
}

pub struct TestServer {
    pub address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<SeenRequest>>>,
    /// Ends the server when dropped.
    _runtime: tokio::runtime::Runtime,
}

/// Chooses the action by the number of earlier requests with this event.
type ServerScript = dyn Fn(usize) -> ServerAction + Send + Sync;

impl TestServer {
    pub fn start(script: impl Fn(usize) -> ServerAction + Send + Sync + 'static) -> Self {
        Self::start_with(None, script)
    }

    /// Starts with TLS and returns the certificate for 127.0.0.1 as a file.
    pub fn start_tls(
        script: impl Fn(usize) -> ServerAction + Send + Sync + 'static,
    ) -> (Self, tempfile::NamedTempFile) {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certified.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        (
            Self::start_with(Some(Arc::new(config).into()), script),
            file,
        )
    }

    fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize) -> ServerAction + Send + Sync + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<SeenRequest>>> = Arc::default();
        let script: Arc<ServerScript> = Arc::new(script);
        let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let recorded = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, recorded) = (Arc::clone(&script), Arc::clone(&recorded));
                let counts = Arc::clone(&counts);
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &*script, &recorded, &counts).await,
                        Some(tls) => {
                            let stream = tls.accept(stream).await.ok()?;
                            serve(stream, &*script, &recorded, &counts).await
                        }
                    }
                });
            }
        });
        Self {
            address,
            scheme,
            requests: seen,
            _runtime: runtime,
        }
    }

    pub fn url(&self) -> String {
        format!("{}://{}/v1/events", self.scheme, self.address)
    }

    pub fn requests(&self) -> Vec<SeenRequest> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: &ServerScript,
    recorded: &Mutex<Vec<SeenRequest>>,
    counts: &Mutex<HashMap<String, usize>>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let (head, body) = read_request(&mut stream, &mut buffer).await?;
        let received_at = Instant::now();
        let event: Value = serde_json::from_slice(&body).ok()?;
        let id = event["id"].as_str()?.to_owned();
        let before = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(id.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let action = script(before);
        if let ServerAction::RespondAfter(after, ..) = &action {
            tokio::time::sleep(*after).await;
        }
        let metadata = &event["metadata"];
        let space = ["zone_id", "room_id", "floor_id"].map(|name| &metadata[name]);
        let space = space.into_iter().find(|id| id.is_string());
        recorded.lock().unwrap().push(SeenRequest {
            head,
            id,
            reading: format!("{} {space:?} {}", event["type"], event["timestamp"]),
            at: (received_at, Instant::now()),
        });
        let (status, body, close) = match action {
            ServerAction::Respond(status, body) | ServerAction::RespondAfter(_, status, body) => {
                (status, body, false)
            }
            ServerAction::RespondAndClose(status, body) => (status, body, true),
            ServerAction::Close => return None,
            ServerAction::Hang => std::future::pending().await,
        };
        let close = if close { "connection: close\r\n" } else { "" };
        let length = body.len();
        let response =
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{close}\r\n{body}");
        stream.write_all(response.as_bytes()).await.ok()?;
        if !close.is_empty() {
            return None;
        }
    }
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "))?;
            let total = end + 4 + length.parse::<usize>().ok()?;
            if buffer.len() >= total {
                let body = buffer[end + 4..total].to_vec();
                buffer.drain(..total);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
