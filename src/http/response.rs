//! Responses: JSON for accepted events, RFC 9457 problems for rejected ones.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpResponse, HttpResponseBuilder};
use butlr_event::FieldError;
use serde::Serialize;

use crate::pipeline::{Acknowledgement, ItemVerdict, PipelineAnswer};
use crate::rejection::Rejection;

/// A response ready to be sent. Rendered while the request's body is borrowed, sent when it no
/// longer is.
#[derive(Debug)]
pub struct RenderedResponse {
    /// HTTP status.
    pub status: u16,
    /// Log fields of a refused request; `None` if everything was accepted.
    pub problem: Option<RefusalSummary>,
    body: Vec<u8>,
    media_type: &'static str,
    retry_after: Option<u64>,
}

/// Log fields of a refused request.
#[derive(Debug)]
pub struct RefusalSummary {
    /// Code of the problem; for an array, of its most important one.
    pub code: &'static str,
    /// The request id, which the response carries too.
    pub request_id: String,
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

/// The result of one event: the body of a 2xx, or one entry of an array's results.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum ItemBody<'a> {
    Published {
        id: &'a str,
        topic: &'a str,
        partition: i32,
        offset: i64,
    },
    Duplicate {
        kind: &'static str,
        id: &'a str,
    },
    Spooled {
        id: &'a str,
    },
    /// A rejected item that was quarantined, with `quarantine.answer = "accept"`.
    Quarantined {
        #[serde(skip_serializing_if = "Option::is_none")]
        errors: Option<&'a [FieldError]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    Refused {
        code: &'static str,
        detail: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        errors: Option<&'a [FieldError]>,
        #[serde(skip_serializing_if = "is_false")]
        quarantined: bool,
    },
}

impl<'a> From<&'a ItemVerdict<'_>> for ItemBody<'a> {
    fn from(verdict: &'a ItemVerdict<'_>) -> Self {
        let event_id = event_id(verdict);
        let id = event_id.unwrap_or_default();
        match &verdict.outcome {
            Ok(Acknowledgement::Published(stored)) => ItemBody::Published {
                id,
                topic: stored.topic,
                partition: stored.partition,
                offset: stored.offset,
            },
            Ok(Acknowledgement::Duplicate { kind, .. }) => ItemBody::Duplicate {
                kind: kind.as_str(),
                id,
            },
            Ok(Acknowledgement::Spooled) => ItemBody::Spooled { id },
            Ok(Acknowledgement::Quarantined(rejection)) => {
                let errors = field_errors(rejection);
                let is_unreadable = errors.is_none();
                ItemBody::Quarantined {
                    errors,
                    code: is_unreadable.then(|| rejection.code()),
                    detail: is_unreadable.then(|| rejection.detail()),
                }
            }
            Err(rejection) => ItemBody::Refused {
                code: rejection.code(),
                detail: rejection.detail(),
                id: event_id,
                errors: field_errors(rejection),
                quarantined: verdict.quarantined,
            },
        }
    }
}

#[derive(Serialize)]
struct ResultsBody<'a> {
    results: Vec<ItemBody<'a>>,
}

impl RenderedResponse {
    /// Renders the pipeline's result.
    pub fn from_answer(answer: &PipelineAnswer<'_>, request_id: impl FnOnce() -> String) -> Self {
        match answer {
            PipelineAnswer::One(verdict) => match &verdict.outcome {
                Ok(promise) => Self::from_value(promise.http_status(), &ItemBody::from(verdict)),
                Err(rejection) => {
                    let id = event_id(verdict);
                    Self::new_problem(rejection, id, request_id(), verdict.quarantined)
                }
            },
            PipelineAnswer::Many(verdicts) => Self::from_verdicts(verdicts, request_id),
        }
    }

    fn from_verdicts(verdicts: &[ItemVerdict<'_>], request_id: impl FnOnce() -> String) -> Self {
        let rejections = || verdicts.iter().filter_map(|v| v.outcome.as_ref().err());
        let retry_after = rejections().filter_map(Rejection::retry_after).max();
        let status = match (retry_after, rejections().next()) {
            (Some(_), _) => 503,
            (None, Some(_)) => 422,
            (None, None) => 200,
        };
        // The first rejection that explains the status.
        let main = rejections().find(|r| retry_after.is_none() || r.retry_after().is_some());
        let body = ResultsBody {
            results: verdicts.iter().map(ItemBody::from).collect(),
        };
        Self {
            problem: main.map(|rejection| RefusalSummary {
                code: rejection.code(),
                request_id: request_id(),
            }),
            retry_after: retry_after.map(|after| after.as_secs()),
            ..Self::from_value(status, &body)
        }
    }

    /// Renders the problem of a request that was refused as a whole.
    pub fn from_rejection(rejection: &Rejection, request_id: String) -> Self {
        Self::new_problem(rejection, None, request_id, false)
    }

    fn new_problem(
        rejection: &Rejection,
        id: Option<&str>,
        request_id: String,
        quarantined: bool,
    ) -> Self {
        let body = ProblemBody {
            r#type: format!("urn:butlr-bridge:problem:{}", rejection.code()),
            title: rejection.title(),
            status: rejection.status(),
            code: rejection.code(),
            detail: rejection.detail(),
            id,
            request_id: &request_id,
            errors: field_errors(rejection),
            quarantined,
        };
        let rendered = Self::from_value(rejection.status(), &body);
        Self {
            problem: Some(RefusalSummary {
                code: rejection.code(),
                request_id,
            }),
            media_type: "application/problem+json",
            retry_after: rejection.retry_after().map(|after| after.as_secs()),
            ..rendered
        }
    }

    fn from_value(status: u16, value: &impl Serialize) -> Self {
        let mut body = Vec::with_capacity(192);
        serde_json::to_writer(&mut body, value).expect("response bodies are valid JSON");
        Self {
            status,
            problem: None,
            body,
            media_type: "application/json",
            retry_after: None,
        }
    }

    /// Converts to actix-web's response. If `close` is set, the connection ends with it.
    ///
    /// `unread` is a request body that was not read to its end. It is kept until the response is
    /// written; actix-http then closes the connection if more of the body is to come. If it were
    /// dropped earlier, actix-http would read the rest of a chunked body without any limit in time
    /// or size.
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

/// Bytes of a response, together with the request body that must live until they are written.
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

fn is_false(value: &bool) -> bool {
    !value
}

fn event_id<'a>(verdict: &'a ItemVerdict<'_>) -> Option<&'a str> {
    verdict.event.as_ref().map(|event| event.id())
}

fn field_errors(rejection: &Rejection) -> Option<&[FieldError]> {
    match rejection {
        Rejection::InvalidEvent(errors) => Some(errors),
        _ => None,
    }
}
