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

use crate::marks::Duplicate;
use crate::pipeline::{Answer, Promise, Stored, Verdict};
use crate::rejection::Rejection;
use butlr_event::FieldError;

/// An answer ready to be sent; made where the request's body is at hand, sent where it no longer is.
#[derive(Debug)]
pub struct Rendered {
    /// The HTTP status.
    pub status: u16,
    /// What is logged of it; `None` where all was stored.
    pub problem: Option<Refusal>,
    body: Vec<u8>,
    media_type: &'static str,
    retry_after: Option<u64>,
}

/// What a line of the log says of a refused request.
#[derive(Debug)]
pub struct Refusal {
    /// The code of the problem; of an array, of its worst one.
    pub code: &'static str,
    /// The id that the answer carries, too.
    pub request_id: String,
}

#[derive(Serialize)]
struct Published<'a> {
    status: &'static str,
    id: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
}

#[derive(Serialize)]
struct NotNew<'a> {
    status: &'static str,
    kind: &'static str,
    id: &'a str,
}

#[derive(Serialize)]
struct Problem<'a> {
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
struct Spooled<'a> {
    status: &'static str,
    id: &'a str,
}

/// What is no valid event, and was kept where the sender is not to be told of a failure.
#[derive(Serialize)]
struct Quarantined<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize)]
struct Refused<'a> {
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
enum Entry<'a> {
    Published(Published<'a>),
    NotNew(NotNew<'a>),
    Spooled(Spooled<'a>),
    Quarantined(Quarantined<'a>),
    Refused(Refused<'a>),
}

impl<'a> Entry<'a> {
    fn promised(id: Option<&'a str>, promise: &'a Promise<'a>) -> Self {
        let id = id.unwrap_or_default();
        match promise {
            Promise::Published(stored) => Entry::Published(published(id, stored)),
            Promise::Duplicate { kind, .. } => Entry::NotNew(not_new(id, *kind)),
            Promise::Spooled => Entry::Spooled(Spooled {
                status: "spooled",
                id,
            }),
            Promise::Quarantined(rejection) => Entry::Quarantined(quarantined(rejection)),
        }
    }
}

#[derive(Serialize)]
struct Results<'a> {
    results: Vec<Entry<'a>>,
}

impl Rendered {
    /// The answer to a request that went through the pipeline.
    pub fn answer(answer: &Answer<'_>, request_id: impl FnOnce() -> String) -> Self {
        match answer {
            Answer::One(Verdict {
                event,
                outcome,
                quarantined,
            }) => {
                let id = event.as_ref().map(|e| e.id());
                match outcome {
                    Ok(Promise::Published(stored)) => {
                        Self::of(200, published_json(id.unwrap_or_default(), stored))
                    }
                    Ok(promise) => Self::json(promise.status(), &Entry::promised(id, promise)),
                    Err(rejection) => Self::problem_of(rejection, id, request_id(), *quarantined),
                }
            }
            Answer::Many(verdicts) => Self::results(verdicts, request_id),
        }
    }

    fn results(verdicts: &[Verdict<'_>], request_id: impl FnOnce() -> String) -> Self {
        let refused = || verdicts.iter().filter_map(|v| v.outcome.as_ref().err());
        let again = refused().filter_map(Rejection::retry_after).max();
        let status = match (again, refused().next()) {
            (Some(_), _) => 503,
            (None, Some(_)) => 422,
            (None, None) => 200,
        };
        let worst = refused().find(|r| again.is_none() || r.retry_after().is_some());
        let results = verdicts.iter().map(|v| {
            let id = v.event.as_ref().map(|e| e.id());
            match &v.outcome {
                Ok(promise) => Entry::promised(id, promise),
                Err(rejection) => Entry::Refused(Refused {
                    status: "refused",
                    code: rejection.code(),
                    detail: rejection.detail(),
                    id,
                    errors: errors(rejection),
                    quarantined: v.quarantined,
                }),
            }
        });
        let results = Results {
            results: results.collect(),
        };
        Self {
            problem: worst.map(|rejection| Refusal {
                code: rejection.code(),
                request_id: request_id(),
            }),
            retry_after: again.map(|after| after.as_secs()),
            ..Self::json(status, &results)
        }
    }

    /// A request, or its only event, was refused.
    pub fn problem(rejection: &Rejection, id: Option<&str>, request_id: String) -> Self {
        Self::problem_of(rejection, id, request_id, false)
    }

    fn problem_of(
        rejection: &Rejection,
        id: Option<&str>,
        request_id: String,
        quarantined: bool,
    ) -> Self {
        let problem = Problem {
            r#type: format!("urn:butlr-bridge:problem:{}", rejection.code()),
            title: rejection.title(),
            status: rejection.status(),
            code: rejection.code(),
            detail: rejection.detail(),
            id,
            request_id: &request_id,
            errors: errors(rejection),
            quarantined,
        };
        Self {
            problem: Some(Refusal {
                code: rejection.code(),
                request_id: request_id.clone(),
            }),
            media_type: "application/problem+json",
            retry_after: rejection.retry_after().map(|after| after.as_secs()),
            ..Self::json(rejection.status(), &problem)
        }
    }

    fn json(status: u16, value: &impl Serialize) -> Self {
        let mut body = Vec::with_capacity(192);
        serde_json::to_writer(&mut body, value).expect("these values are JSON");
        Self::of(status, body)
    }

    fn of(status: u16, body: Vec<u8>) -> Self {
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
        if let Some(Refusal { request_id, .. }) = self.problem {
            response.insert_header(("x-request-id", request_id));
        }
        if close {
            response.force_close();
        }
        match unread {
            None => response.body(self.body),
            Some(unread) => response.body(Body {
                bytes: self.body.into(),
                _unread: unread,
            }),
        }
    }
}

/// A response's bytes, with what has to live until they are written.
struct Body {
    bytes: Bytes,
    _unread: Payload,
}

impl MessageBody for Body {
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

fn not_new(id: &str, kind: Duplicate) -> NotNew<'_> {
    NotNew {
        status: "duplicate",
        kind: kind.as_str(),
        id,
    }
}

fn published<'a>(id: &'a str, stored: &Stored<'a>) -> Published<'a> {
    Published {
        status: "published",
        id,
        topic: stored.topic,
        partition: stored.partition,
        offset: stored.offset,
    }
}

/// What [`Published`] is as JSON, a little faster: nearly all answers are this one.
fn published_json(id: &str, stored: &Stored<'_>) -> Vec<u8> {
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

fn quarantined(rejection: &Rejection) -> Quarantined<'_> {
    let errors = errors(rejection);
    let whole = errors.is_none();
    Quarantined {
        status: "quarantined",
        errors,
        code: whole.then(|| rejection.code()),
        detail: whole.then(|| rejection.detail()),
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn errors(rejection: &Rejection) -> Option<&[FieldError]> {
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
            let stored = Stored {
                topic: "butlr.room-occupancy_1.v1",
                partition,
                offset,
            };
            let expected = serde_json::to_vec(&published(id, &stored)).unwrap();
            assert_eq!(published_json(id, &stored), expected);
        }
    }
}
