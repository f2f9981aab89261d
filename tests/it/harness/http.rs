//! HTTP client: requests sent with ureq, and requests and responses on a bare connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use ureq::http;

/// Creates a client with its own connection pool. It returns every status as a response, not as an
/// error.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent()
}

/// HTTP response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: u16,
    /// Names are lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl HttpResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut same = self.headers.iter().filter(|(n, _)| n == name);
        same.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Returns the `code` of a problem, or an empty string.
    pub fn code(&self) -> String {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        let code = problem.as_ref().and_then(|p| p["code"].as_str());
        code.unwrap_or_default().to_owned()
    }

    /// Fails the test unless the response is this problem.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            self.text()
        );
        self
    }

    /// Fails the test unless the response has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Returns pointer and code of each entry in a problem's `errors`.
    #[track_caller]
    pub fn errors(&self) -> Vec<(String, String)> {
        error_pairs(&self.json()["errors"])
    }

    fn from_response(response: http::Response<ureq::Body>) -> Result<Self, ureq::Error> {
        let (parts, mut body) = response.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        });
        Ok(Self {
            status: parts.status.as_u16(),
            headers: headers.collect(),
            body: body.read_to_vec()?,
        })
    }
}

/// Returns pointer and code of each entry of `errors`.
pub fn error_pairs(errors: &Value) -> Vec<(String, String)> {
    let text = |error: &Value, name: &str| error[name].as_str().unwrap_or("?").to_owned();
    let all = errors.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .map(|e| (text(e, "pointer"), text(e, "code")))
        .collect()
}

/// HTTP request that has not been sent.
pub struct HttpRequest {
    builder: http::request::Builder,
    body: Option<Vec<u8>>,
}

impl HttpRequest {
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            builder: http::Request::builder().method(method).uri(url),
            body: None,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// Sends the request. An error means that there was no response.
    pub fn try_send(self, agent: &ureq::Agent) -> Result<HttpResponse, ureq::Error> {
        let response = match self.body {
            Some(body) => agent.run(self.builder.body(body)?),
            None => agent.run(self.builder.body(())?),
        };
        HttpResponse::from_response(response?)
    }

    #[track_caller]
    pub fn send(self, agent: &ureq::Agent) -> HttpResponse {
        self.try_send(agent)
            .unwrap_or_else(|error| panic!("no response: {error}"))
    }
}

/// Reads one response from a connection. Returns `None` if the connection ends first.
///
/// Fails the test if nothing arrives within the read timeout of the connection.
#[track_caller]
pub fn read_response(stream: &mut (impl Read + ?Sized)) -> Option<HttpResponse> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no response: {error}"),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
    Some(HttpResponse {
        status,
        headers,
        body,
    })
}

/// Writes the head of a `POST /v1/events`, with these headers in addition to `Host`.
pub fn write_head(stream: &mut TcpStream, headers: &[(&str, &str)]) {
    let mut head = "POST /v1/events HTTP/1.1\r\nhost: bridge\r\n".to_owned();
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).expect("a connection");
}

/// Writes a complete `POST /v1/events`, with these headers in addition to `Host` and
/// `Content-Length`.
pub fn write_request(stream: &mut TcpStream, headers: &[(&str, &str)], body: &str) {
    let length = body.len().to_string();
    let length = ("content-length", length.as_str());
    write_head(stream, &[headers, &[length]].concat());
    stream.write_all(body.as_bytes()).expect("a connection");
}
