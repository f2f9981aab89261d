//! Answers: what was stored, and RFC 9457 problems for what was not.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;

use crate::marks::DuplicateKind;
use crate::pipeline::{Acknowledgement, ItemVerdict, PipelineAnswer, StoredPosition};
use crate::rejection::Rejection;
use butlr_event::FieldError;

/// An answer ready to be sent; made where the request's body is at hand, sent where it no longer is.
#[derive(Debug)]
pub struct RenderedResponse {
    /// The HTTP status.
    pub status: u16,
    /// What is logged of it; `None` where all was stored.
    pub problem: Option<RefusalSummary>,
    body: Vec<u8>,
    media_type: &'static str,
    retry_after: Option<u64>,
}

/// What a line of the log says of a refused request.
#[derive(Debug)]
pub struct RefusalSummary {
    /// The code of the problem; of an array, of its worst one.
    pub code: &'static str,
    /// The id that the answer carries, too.
    pub request_id: String,
}

#[derive(Serialize)]
struct PublishedBody<'a> {
    status: &'static str,
    id: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
}

#[derive(Serialize)]
struct DuplicateBody<'a> {
    status: &'static str,
    kind: &'static str,
    id: &'a str,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "is_false")]
    quarantined: bool,
}

#[derive(Serialize)]
struct SpooledBody<'a> {
    status: &'static str,
    id: &'a str,
}

/// What is no valid event, and was kept where the sender is not to be told of a failure.
#[derive(Serialize)]
struct QuarantinedBody<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize)]
struct RefusedBody<'a> {
    status: &'static str,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "is_false")]
    quarantined: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ItemResult<'a> {
    Published(PublishedBody<'a>),
    Duplicate(DuplicateBody<'a>),
    Spooled(SpooledBody<'a>),
    Quarantined(QuarantinedBody<'a>),
    Refused(RefusedBody<'a>),
}

impl<'a> ItemResult<'a> {
    fn from_acknowledgement(id: Option<&'a str>, promise: &'a Acknowledgement<'a>) -> Self {
        let id = id.unwrap_or_default();
        match promise {
            Acknowledgement::Published(stored) => ItemResult::Published(published_body(id, stored)),
            Acknowledgement::Duplicate { kind, .. } => {
                ItemResult::Duplicate(duplicate_body(id, *kind))
            }
            Acknowledgement::Spooled => ItemResult::Spooled(SpooledBody {
                status: "spooled",
                id,
            }),
            Acknowledgement::Quarantined(rejection) => {
                ItemResult::Quarantined(quarantined_body(rejection))
            }
        }
    }
}

#[derive(Serialize)]
struct ResultsBody<'a> {
    results: Vec<ItemResult<'a>>,
}

impl RenderedResponse {
    /// The answer to a request that went through the pipeline.
    pub fn from_answer(answer: &PipelineAnswer<'_>, request_id: impl FnOnce() -> String) -> Self {
        match answer {
            PipelineAnswer::One(ItemVerdict {
                event,
                outcome,
                quarantined,
            }) => {
                let id = event.as_ref().map(|e| e.id());
                match outcome {
                    Ok(Acknowledgement::Published(stored)) => {
                        Self::from_bytes(200, published_json(id.unwrap_or_default(), stored))
                    }
                    Ok(promise) => Self::from_value(
                        promise.http_status(),
                        &ItemResult::from_acknowledgement(id, promise),
                    ),
                    Err(rejection) => Self::new_problem(rejection, id, request_id(), *quarantined),
                }
            }
            PipelineAnswer::Many(verdicts) => Self::from_verdicts(verdicts, request_id),
        }
    }

    fn from_verdicts(verdicts: &[ItemVerdict<'_>], request_id: impl FnOnce() -> String) -> Self {
        let refused = || verdicts.iter().filter_map(|v| v.outcome.as_ref().err());
        let retry_after = refused().filter_map(Rejection::retry_after).max();
        let status = match (retry_after, refused().next()) {
            (Some(_), _) => 503,
            (None, Some(_)) => 422,
            (None, None) => 200,
        };
        let worst = refused().find(|r| retry_after.is_none() || r.retry_after().is_some());
        let results = verdicts.iter().map(|v| {
            let id = v.event.as_ref().map(|e| e.id());
            match &v.outcome {
                Ok(promise) => ItemResult::from_acknowledgement(id, promise),
                Err(rejection) => ItemResult::Refused(RefusedBody {
                    status: "refused",
                    code: rejection.code(),
                    detail: rejection.detail(),
                    id,
                    errors: item_errors(rejection),
                    quarantined: v.quarantined,
                }),
            }
        });
        let results = ResultsBody {
            results: results.collect(),
        };
        Self {
            problem: worst.map(|rejection| RefusalSummary {
                code: rejection.code(),
                request_id: request_id(),
            }),
            retry_after: retry_after.map(|after| after.as_secs()),
            ..Self::from_value(status, &results)
        }
    }

    /// A request, or its only event, was refused.
    pub fn from_rejection(rejection: &Rejection, id: Option<&str>, request_id: String) -> Self {
        Self::new_problem(rejection, id, request_id, false)
    }

    fn new_problem(
        rejection: &Rejection,
        id: Option<&str>,
        request_id: String,
        quarantined: bool,
    ) -> Self {
        let problem = ProblemBody {
            r#type: format!("urn:butlr-bridge:problem:{}", rejection.code()),
            title: rejection.title(),
            status: rejection.status(),
            code: rejection.code(),
            detail: rejection.detail(),
            id,
            request_id: &request_id,
            errors: item_errors(rejection),
            quarantined,
        };
        Self {
            problem: Some(RefusalSummary {
                code: rejection.code(),
                request_id: request_id.clone(),
            }),
            media_type: "application/problem+json",
            retry_after: rejection.retry_after().map(|after| after.as_secs()),
            ..Self::from_value(rejection.status(), &problem)
        }
    }

    fn from_value(status: u16, value: &impl Serialize) -> Self {
        let mut body = Vec::with_capacity(192);
        serde_json::to_writer(&mut body, value).expect("these values are JSON");
        Self::from_bytes(status, body)
    }

    fn from_bytes(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            problem: None,
            body,
            media_type: "application/json",
            retry_after: None,
        }
    }

    /// The HTTP response; `close`: the connection ends with it.
    ///
    /// `unread` is a request's body that was not read to its end. It is kept until the response is written, whereupon
    /// actix-http ends the connection if more of it is to come. Dropped earlier, the rest of a chunked body would be read
    /// without any limit in time or size.
    pub fn into_response(self, close: bool, unread: Option<Payload>) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header((CONTENT_TYPE, self.media_type));
        match self.status {
            401 => {
                response.insert_header((
                    WWW_AUTHENTICATE,
                    "Basic realm=\"butlr-bridge\", charset=\"UTF-8\"",
                ));
            }
            405 => {
                response.insert_header((ALLOW, "POST"));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if let Some(RefusalSummary { request_id, .. }) = self.problem {
            response.insert_header(("x-request-id", request_id));
        }
        if close {
            response.force_close();
        }
        match unread {
            None => response.body(self.body),
            Some(unread) => response.body(HttpResponseBody {
                bytes: self.body.into(),
                _unread: unread,
            }),
        }
    }
}

/// A response's bytes, with what has to live until they are written.
struct HttpResponseBody {
    bytes: Bytes,
    _unread: Payload,
}

impl MessageBody for HttpResponseBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
    }
}

fn duplicate_body(id: &str, kind: DuplicateKind) -> DuplicateBody<'_> {
    DuplicateBody {
        status: "duplicate",
        kind: kind.as_str(),
        id,
    }
}

fn published_body<'a>(id: &'a str, stored: &StoredPosition<'a>) -> PublishedBody<'a> {
    PublishedBody {
        status: "published",
        id,
        topic: stored.topic,
        partition: stored.partition,
        offset: stored.offset,
    }
}

/// What [`Published`] is as JSON, a little faster: nearly all answers are this one.
fn published_json(id: &str, stored: &StoredPosition<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(192);
    body.extend_from_slice(br#"{"status":"published","id":"#);
    serde_json::to_writer(&mut body, id).expect("writing to memory");
    // Kafka's names of topics have nothing to escape.
    body.extend_from_slice(br#","topic":""#);
    body.extend_from_slice(stored.topic.as_bytes());
    body.extend_from_slice(br#"","partition":"#);
    body.extend_from_slice(itoa::Buffer::new().format(stored.partition).as_bytes());
    body.extend_from_slice(br#","offset":"#);
    body.extend_from_slice(itoa::Buffer::new().format(stored.offset).as_bytes());
    body.push(b'}');
    body
}

fn quarantined_body(rejection: &Rejection) -> QuarantinedBody<'_> {
    let errors = item_errors(rejection);
    let whole = errors.is_none();
    QuarantinedBody {
        status: "quarantined",
        errors,
        code: whole.then(|| rejection.code()),
        detail: whole.then(|| rejection.detail()),
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn item_errors(rejection: &Rejection) -> Option<&[FieldError]> {
    match rejection {
        Rejection::InvalidEvent(mistakes) => Some(mistakes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_answer_is_what_serde_makes_of_it() {
        for (id, partition, offset) in [
            ("event_1", 0, 0),
            ("a\"b\\c/ü\u{1f4a9}\u{7f}", 17, i64::MAX),
        ] {
            let stored = StoredPosition {
                topic: "butlr.room-occupancy_1.v1",
                partition,
                offset,
            };
            let expected = serde_json::to_vec(&published_body(id, &stored)).unwrap();
            assert_eq!(published_json(id, &stored), expected);
        }
    }
}
