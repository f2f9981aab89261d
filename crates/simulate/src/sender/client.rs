//! One kept-alive HTTP/1.1 connection.
//!
//! The task that waits for the response drives the connection. A separate task would cost two
//! wake-ups per request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::response::{self, ResponseDetail};
use super::target::{RequestBody, SendTarget};
use super::wire::Wire;
use crate::outcome::ServerResponse;

/// Maximum part of a response body that is kept; the bridge's bodies are far smaller.
const MAX_KEPT_BYTES: usize = 8 << 10;

/// Size from which a response body is not read any further; the connection is then closed.
const MAX_READ_BYTES: usize = 1 << 20;

pub(super) struct SenderClient {
    send: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Wire>, RequestBody>,
}

/// Outcome of one request on a connection.
pub(super) enum ExchangeOutcome {
    /// A response, and the connection if it can be reused.
    Responded(ServerResponse, Option<Box<SenderClient>>),
    /// The server had closed the connection; nothing was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke; the server may have received the request.
    Broken,
}

impl SenderClient {
    pub(super) async fn connect(target: &SendTarget) -> Result<Box<Self>, String> {
        let wire = Wire::connect(target).await.map_err(|e| e.to_string())?;
        let (send, connection) = http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|e| e.to_string())?;
        Ok(Box::new(Self { send, connection }))
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        detail: ResponseDetail,
    ) -> ExchangeOutcome {
        if !poll_fn(|cx| self.poll_ready(cx)).await {
            return ExchangeOutcome::Unsent(Box::new(request));
        }
        let response = {
            let mut response = pin!(self.send.try_send_request(request));
            poll_fn(|cx| poll_with_connection(&mut self.connection, response.as_mut(), cx)).await
        };
        let response = match response {
            Ok(response) => response,
            Err(mut error) => {
                return match error.take_message() {
                    Some(request) => ExchangeOutcome::Unsent(Box::new(request)),
                    None => ExchangeOutcome::Broken,
                };
            }
        };
        match self.read_response(response, detail).await {
            Ok((response, true)) => ExchangeOutcome::Responded(response, Some(self)),
            Ok((response, false)) => ExchangeOutcome::Responded(response, None),
            Err(InterruptedResponse) => ExchangeOutcome::Broken,
        }
    }

    /// Reads a response. Returns `false` with it if the connection cannot be reused.
    async fn read_response(
        &mut self,
        response: Response<Incoming>,
        detail: ResponseDetail,
    ) -> Result<(ServerResponse, bool), InterruptedResponse> {
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut first = Bytes::new();
        let mut rest = Vec::new();
        let mut read = 0;
        while !incoming.is_end_stream() {
            let frame = poll_fn(|cx| {
                let next = pin!(poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)));
                poll_with_connection(&mut self.connection, next, cx)
            });
            let data = match frame.await {
                None => break,
                Some(Err(_)) => return Err(InterruptedResponse),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            read += data.len();
            // The body nearly always arrives in one piece.
            if first.is_empty() {
                first = data;
            } else if first.len() + rest.len() + data.len() <= MAX_KEPT_BYTES {
                rest.extend_from_slice(&data);
            }
            if read > MAX_READ_BYTES {
                return Ok((response::parse_response(status, &[], detail), false));
            }
        }
        if !rest.is_empty() {
            first = [&first, &rest[..]].concat().into();
        }
        Ok((response::parse_response(status, &first, detail), true))
    }

    /// Ready with `true` once another request can be sent, with `false` if the connection is
    /// closed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.poll_closed(cx).is_ready() {
            return Poll::Ready(false);
        }
        self.send.poll_ready(cx).map(|ready| ready.is_ok())
    }

    /// Ready once the server has closed the connection; polled while the connection is idle.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection).poll(cx).map(drop)
    }
}

/// The response was cut off.
struct InterruptedResponse;

/// Polls a future that waits for the connection, and the connection itself.
fn poll_with_connection<F: Future>(
    connection: &mut Connection<TokioIo<Wire>, RequestBody>,
    mut waiting: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    // The waiting future comes first, so that only requested data is read. It also observes the end
    // of the connection.
    if let Poll::Ready(output) = waiting.as_mut().poll(cx) {
        return Poll::Ready(output);
    }
    let _ = Pin::new(connection).poll(cx);
    waiting.poll(cx)
}
