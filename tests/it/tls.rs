//! HTTPS on the ingest listener, and replacement of the certificate at run time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::harness::{
    BridgeSetup, TestBridge, eventually, minimal_event, sample, toml, trials, unique_ms,
};

trials! {
    "tls": [
        events_are_taken_over_https,
        http_1_1_is_what_is_agreed_on,
        plain_http_is_not_spoken_on_the_tls_port,
        a_handshake_that_stalls_is_cut_off,
        a_new_certificate_is_used_without_a_restart,
        a_broken_certificate_leaves_the_old_one_in_use,
    ],
}

const EXPIRY: &str = "butlr_bridge_certificate_expiry_timestamp_seconds";

/// Writes a self-signed certificate for localhost, valid until the end of `year`, to `dir`.
fn write_certificate(dir: &Path, year: i32) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

fn with_tls(dir: &Path) -> BridgeSetup {
    let path = |name: &str| dir.join(name).display().to_string();
    let files = format!(
        "{{cert_file={:?}, key_file={:?}}}",
        path("tls.crt"),
        path("tls.key")
    );
    BridgeSetup::embedded().set("http.tls", toml(&files))
}

fn valid_event() -> String {
    minimal_event(EventType::RoomOccupancy, "event_1", unique_ms(), "room_1")
}

/// Creates a client that trusts only this certificate.
fn https_client(trusted: &CertificateDer<'static>) -> ureq::Agent {
    let provider = rustls::crypto::ring::default_provider();
    let roots = RootCerts::new_with_certs(&[Certificate::from_der(trusted).to_owned()]);
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(provider))
        .root_certs(roots)
        .build();
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .tls_config(tls)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .new_agent()
}

/// Opens a TLS connection that trusts this certificate.
fn connect(
    bridge: &TestBridge,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, bridge.connect());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Returns `true` if a new connection gets this certificate.
fn is_serving(bridge: &TestBridge, certificate: &CertificateDer<'static>) -> bool {
    let connected = connect(bridge, certificate, &["http/1.1"]);
    connected.is_ok_and(|stream| {
        stream.conn.peer_certificates() == Some(std::slice::from_ref(certificate))
    })
}

fn events_are_taken_over_https() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    let client = https_client(&trusted);
    for event_type in EventType::ALL {
        let sent = sample(event_type);
        let request = bridge.request("POST", "/v1/events").body(&sent);
        request.send_with(&client).expect(200);
        assert_eq!(bridge.records(event_type)[0].text(), sent.trim());
    }
    assert_eq!(bridge.metric(EXPIRY), 3818361600.0);
    // TLS connections count as well.
    let held = connect(&bridge, &trusted, &["http/1.1"]).unwrap();
    assert!(bridge.metric("butlr_bridge_connections") >= 1.0);
    drop(held);
}

fn http_1_1_is_what_is_agreed_on() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    let chosen = |protocols: &[&str]| {
        let stream = connect(&bridge, &trusted, protocols).unwrap();
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(
        chosen(&["h2", "http/1.1"]).as_deref(),
        Some(&b"http/1.1"[..])
    );
    assert_eq!(chosen(&["http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));

    let body = dir.path().join("event.json");
    std::fs::write(&body, valid_event()).unwrap();
    let sent = Command::new("curl")
        .args(["-sS", "--http2", "--noproxy", "*", "--cacert"])
        .arg(dir.path().join("tls.crt"))
        .args([
            "-w",
            "\n%{http_version} %{http_code}",
            "-H",
            "content-type: application/json",
        ])
        .arg("--data-binary")
        .arg(format!("@{}", body.display()))
        .arg(format!(
            "https://localhost:{}/v1/events",
            bridge.ingest.port()
        ))
        .output()
        .expect("curl");
    let stdout = String::from_utf8_lossy(&sent.stdout);
    assert!(stdout.ends_with("\n1.1 200"), "{stdout} {sent:?}");
    bridge.count_events(1);
    assert_eq!(
        bridge.records(EventType::RoomOccupancy)[0].text(),
        read_body(&body)
    );
}

fn read_body(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn plain_http_is_not_spoken_on_the_tls_port() {
    let dir = tempfile::tempdir().unwrap();
    write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    let mut stream = bridge.connect();
    stream
        .write_all(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        .unwrap();
    let mut rest = Vec::new();
    // A TLS alert, or nothing.
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    assert_eq!(bridge.metric_sum("butlr_bridge_requests_total", ""), 0.0);
}

fn a_handshake_that_stalls_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    let start = Instant::now();
    let mut stalled: Vec<_> = (0..20).map(|_| bridge.connect()).collect();
    // They do not block other connections.
    let request = bridge.request("POST", "/v1/events").body(valid_event());
    request.send_with(&https_client(&trusted)).expect(200);
    for stream in &mut stalled {
        let end = stream.read(&mut [0; 64]);
        assert!(end.is_ok_and(|n| n == 0), "the connection is closed");
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

fn a_new_certificate_is_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let old = write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    assert!(is_serving(&bridge, &old));
    let mut before = connect(&bridge, &old, &["http/1.1"]).unwrap();

    let new = write_certificate(dir.path(), 2091);
    assert!(is_serving(&bridge, &old), "not before the reload");
    bridge.reload(&[]);
    eventually("the new certificate is served", || {
        is_serving(&bridge, &new).then_some(())
    });
    assert!(!is_serving(&bridge, &old));
    assert_eq!(bridge.metric(EXPIRY), 3849897600.0);
    bridge
        .request("POST", "/v1/events")
        .body(valid_event())
        .send_with(&https_client(&new))
        .expect(200);

    // An existing connection continues.
    let body = valid_event();
    write!(
        before,
        "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let response = bridge.read_response(&mut before);
    response.expect(200);
}

fn a_broken_certificate_leaves_the_old_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let old = write_certificate(dir.path(), 2090);
    let bridge = with_tls(dir.path()).start();
    let expiry = bridge.metric(EXPIRY);
    let key = std::fs::read(dir.path().join("tls.key")).unwrap();
    for break_it in [
        // An incomplete renewal: the key belongs to another certificate.
        |dir: &Path| {
            let key = KeyPair::generate().unwrap().serialize_pem();
            std::fs::write(dir.join("tls.key"), key).unwrap();
        },
        |dir: &Path| std::fs::write(dir.join("tls.crt"), "not a certificate").unwrap(),
    ] {
        break_it(dir.path());
        bridge.reload(&[]);
        // Accepted only after the first reload is done.
        bridge.reload(&[]);
        std::thread::sleep(Duration::from_millis(200));
        assert!(is_serving(&bridge, &old));
        assert_eq!(bridge.metric(EXPIRY), expiry);
        std::fs::write(dir.path().join("tls.key"), &key).unwrap();
    }
}
