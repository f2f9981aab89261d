//! One kept-alive HTTP/1.1 connection.
//!
//! The connection is driven by whoever waits for its answer: a task of its own for it would wake the other one twice a
//! request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::response::{self, ServerResponse};
use super::target::SendTarget;
use super::wire::Wire;

/// The body of a request.
pub(super) type RequestBody = Full<Bytes>;

/// What is kept of an answer's body: the bridge's are far smaller.
const MAX_KEPT_BYTES: usize = 8 << 10;

/// A larger answer costs the connection.
const MAX_READ_BYTES: usize = 1 << 20;

pub(super) struct SenderClient {
    send: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Wire>, RequestBody>,
}

/// How a request ended.
pub(super) enum ExchangeOutcome {
    /// With an answer, and the connection where it can be used again.
    Answered(ServerResponse, Option<Box<SenderClient>>),
    /// The server had closed the connection before: nothing was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke; the server may have the request.
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

    /// Sends a request and reads the whole answer. `places` as in [`answer::read`].
    pub(super) async fn exchange(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        wants_position: bool,
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
        match self.read_response(response, wants_position).await {
            Ok((answered, true)) => ExchangeOutcome::Answered(answered, Some(self)),
            Ok((answered, false)) => ExchangeOutcome::Answered(answered, None),
            Err(InterruptedResponse) => ExchangeOutcome::Broken,
        }
    }

    async fn read_response(
        &mut self,
        response: Response<Incoming>,
        wants_position: bool,
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
            // Nearly always all of the body comes at once.
            if first.is_empty() {
                first = data;
            } else if first.len() + rest.len() + data.len() <= MAX_KEPT_BYTES {
                rest.extend_from_slice(&data);
            }
            if read > MAX_READ_BYTES {
                return Ok((response::parse_response(status, &[], wants_position), false));
            }
        }
        let answered = match rest.is_empty() {
            true => response::parse_response(status, &first, wants_position),
            false => {
                response::parse_response(status, &[&first, &rest[..]].concat(), wants_position)
            }
        };
        Ok((answered, true))
    }

    /// Whether another request can be sent: `false` once the connection is closed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.poll_closed(cx).is_ready() {
            return Poll::Ready(false);
        }
        self.send.poll_ready(cx).map(|ready| ready.is_ok())
    }

    /// Ready once the server has closed the connection; to be polled while it idles.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection).poll(cx).map(drop)
    }
}

/// The answer broke off.
struct InterruptedResponse;

/// Polls what waits for the connection, and the connection.
fn poll_with_connection<F: Future>(
    connection: &mut Connection<TokioIo<Wire>, RequestBody>,
    mut waiting: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    // First the one that waits: only what has been asked for is read. Its end, if any, is told to it as well.
    if let Poll::Ready(output) = waiting.as_mut().poll(cx) {
        return Poll::Ready(output);
    }
    let _ = Pin::new(connection).poll(cx);
    waiting.poll(cx)
}
