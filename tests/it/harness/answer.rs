//! The client: requests by ureq, answers of any status, and answers read from a bare socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use ureq::http;

/// A client with its own connections; every status is an answer.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent()
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl HttpAnswer {
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

    /// The `code` of a problem; empty where the answer is none.
    pub fn code(&self) -> String {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        let code = problem.as_ref().and_then(|p| p["code"].as_str());
        code.unwrap_or_default().to_owned()
    }

    /// Fails the test unless the answer is this problem.
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

    /// Fails the test unless the answer has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The pointers and codes of a problem's `errors`.
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

/// Pointer and code of each entry of `errors`.
pub fn error_pairs(errors: &Value) -> Vec<(String, String)> {
    let text = |error: &Value, name: &str| error[name].as_str().unwrap_or("?").to_owned();
    let all = errors.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .map(|e| (text(e, "pointer"), text(e, "code")))
        .collect()
}

/// A request to be sent.
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

    /// Sends it; an error is one of the connection.
    pub fn try_send(self, agent: &ureq::Agent) -> Result<HttpAnswer, ureq::Error> {
        let response = match self.body {
            Some(body) => agent.run(self.builder.body(body)?),
            None => agent.run(self.builder.body(())?),
        };
        HttpAnswer::from_response(response?)
    }

    #[track_caller]
    pub fn send(self, agent: &ureq::Agent) -> HttpAnswer {
        self.try_send(agent)
            .unwrap_or_else(|error| panic!("no answer: {error}"))
    }
}

/// Reads one answer from a socket; `None` when the connection ends without one.
///
/// Fails the test when nothing comes within the socket's own timeout.
#[track_caller]
pub fn read_answer(stream: &mut (impl Read + ?Sized)) -> Option<HttpAnswer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no answer: {error}"),
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
    Some(HttpAnswer {
        status,
        headers,
        body,
    })
}

/// Writes a request's head: the request line, `Host`, these headers and the empty line.
pub fn write_head(stream: &mut TcpStream, request_line: &str, headers: &[(&str, &str)]) {
    let mut head = format!("{request_line} HTTP/1.1\r\nhost: bridge\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).expect("a connection");
}
