//! The ingest listener: admit → authenticate → read → pipeline → answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::web::{self, Bytes, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, rt};
use arc_swap::ArcSwap;

use super::body;
use super::gate::{AdmissionGate, IngestConnection, RequestPermit};
use super::response::RenderedResponse;
use crate::auth::Authenticator;
use crate::delivery::WakerQueue;
use crate::metrics::EventOutcome;
use crate::pipeline::{Pipeline, PipelineRequest, RequestDetails};
use crate::rejection::Rejection;
use crate::telemetry::LogThrottle;
use butlr_event::EventType;

/// What all workers of the ingest listener share.
pub struct IngestState {
    /// The path of an event.
    pub pipeline: Pipeline,
    /// Limits on what is held.
    pub gate: Arc<AdmissionGate>,
    /// Who may send; swapped when the configuration is read again.
    pub credentials: ArcSwap<Authenticator>,
    /// `http.max_body_bytes`
    pub max_body_bytes: usize,
    /// `http.body_timeout`
    pub body_timeout: Duration,
    /// `http.answer_within`, from the moment the body is complete.
    pub answer_within: Duration,
    /// Ids of the requests that need one.
    pub request_ids: RequestIdGenerator,
    /// Bounds the lines about refused requests.
    pub refusal_throttle: LogThrottle,
}

/// One worker thread's view: the shared part and its own way of being woken.
#[derive(Clone)]
pub struct IngestWorker {
    ingest: Arc<IngestState>,
    waker_queue: Arc<WakerQueue>,
}

impl IngestWorker {
    /// Called on the worker's thread, within its runtime.
    pub fn start(ingest: Arc<IngestState>) -> Self {
        let wakeups = Arc::new(WakerQueue::default());
        rt::spawn(Arc::clone(&wakeups).run());
        Self {
            ingest,
            waker_queue: wakeups,
        }
    }

    /// The routes.
    pub fn configure_routes(self, config: &mut ServiceConfig) {
        let route = |path: &str| {
            web::resource(path)
                .route(web::post().to(post_events))
                .route(web::route().to(method_not_allowed))
        };
        config
            .app_data(self)
            .service(route("/v1/events"))
            .service(route("/v1/events/{type}"))
            .default_service(web::route().to(not_found));
    }

    fn from_request(request: &HttpRequest) -> &Self {
        request
            .app_data::<Self>()
            .expect("each route is configured together with its worker")
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

async fn post_events(request: HttpRequest, mut payload: Payload) -> HttpResponse {
    let started = Instant::now();
    let worker = IngestWorker::from_request(&request);
    if let Some(connection) = request.conn_data::<IngestConnection>() {
        connection.mark_busy();
    }
    let mut credential = None;
    match admit_request(worker, &request, &mut payload, started, &mut credential).await {
        Ok(work) => {
            let rendered = work.await;
            worker.respond(&request, started, rendered, credential.as_deref(), None)
        }
        Err(rejection) => worker.refuse(
            &request,
            started,
            &rejection,
            credential.as_deref(),
            payload,
        ),
    }
}

async fn method_not_allowed(request: HttpRequest, payload: Payload) -> HttpResponse {
    let rejection = Rejection::MethodNotAllowed;
    IngestWorker::from_request(&request).refuse(&request, Instant::now(), &rejection, None, payload)
}

async fn not_found(request: HttpRequest, payload: Payload) -> HttpResponse {
    let rejection = Rejection::NotFound;
    IngestWorker::from_request(&request).refuse(&request, Instant::now(), &rejection, None, payload)
}

/// Work that is finished also when nobody waits for it any more: a client that goes away ends its handler, and must not
/// end a delivery half-way. Dropped unfinished, the work goes on in a task of its own. Cheaper than a task from the start,
/// since nearly all clients wait.
struct UncancellableFuture<F: Future + 'static>(Option<Pin<Box<F>>>);

impl<F: Future> Future for UncancellableFuture<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let work = self.0.as_mut().expect("not polled after its end");
        let output = ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<F: Future + 'static> Drop for UncancellableFuture<F> {
    fn drop(&mut self) {
        // Not after a panic of the work itself; what it had not settled is then counted as refused.
        if let Some(work) = self.0.take().filter(|_| !std::thread::panicking()) {
            drop(rt::spawn(work));
        }
    }
}

/// Admits, authenticates and reads a request; what is left to do is the pipeline.
async fn admit_request(
    worker: &IngestWorker,
    request: &HttpRequest,
    payload: &mut Payload,
    started: Instant,
    credential: &mut Option<Arc<str>>,
) -> Result<UncancellableFuture<impl Future<Output = RenderedResponse> + use<>>, Rejection> {
    let ingest = &worker.ingest;
    ingest.gate.admit(request.conn_data::<IngestConnection>())?;
    *credential = ingest.credentials.load().authenticate(request.headers());
    if credential.is_none() {
        return Err(Rejection::Unauthorized);
    }
    let expected = match request.match_info().get("type") {
        None => None,
        Some(spelling) => Some(EventType::parse(spelling).ok_or(Rejection::NotFound)?),
    };
    let mut permit = ingest.gate.new_permit();
    let deadline = started + ingest.body_timeout;
    let limit = ingest.max_body_bytes;
    let body = body::read(request, payload, limit, deadline, &mut permit).await;
    if body == Err(Rejection::InvalidGzip) {
        // The body came whole: one event of an unknown type that could not be read.
        let received = ingest
            .pipeline
            .metrics
            .count_received(None, SystemTime::now());
        received.record(EventOutcome::Refused);
    }
    let origin = RequestOrigin {
        request: request.clone(),
        credential: credential.clone(),
    };
    let run = process_request(worker.clone(), body?, expected, permit, origin);
    Ok(UncancellableFuture(Some(Box::pin(run))))
}

async fn process_request(
    worker: IngestWorker,
    body: Bytes,
    expected: Option<EventType>,
    mut permit: RequestPermit,
    origin: RequestOrigin,
) -> RenderedResponse {
    let ingest = &*worker.ingest;
    let request = PipelineRequest {
        body: &body,
        expected_type: expected,
        received_at: SystemTime::now(),
        deadline: Instant::now() + ingest.answer_within,
        details: &origin,
        replayed_from: None,
    };
    let answer = ingest
        .pipeline
        .process(&request, &mut permit, &worker.waker_queue)
        .await;
    let given_id = || origin.request.headers().get(X_REQUEST_ID);
    RenderedResponse::from_answer(&answer, || ingest.request_ids.next_id(given_id()))
}

/// Where a request comes from.
struct RequestOrigin {
    request: HttpRequest,
    credential: Option<Arc<str>>,
}

impl RequestDetails for RequestOrigin {
    fn path(&self) -> String {
        self.request.path().to_owned()
    }

    fn credential(&self) -> String {
        self.credential.as_deref().unwrap_or_default().to_owned()
    }

    fn content_type(&self) -> Option<String> {
        let given = self.request.headers().get(CONTENT_TYPE)?;
        Some(String::from_utf8_lossy(given.as_bytes()).into_owned())
    }
}

impl IngestWorker {
    /// Refuses a request as a whole, its body unread. What the pipeline refuses, it counts itself.
    fn refuse(
        &self,
        request: &HttpRequest,
        started: Instant,
        rejection: &Rejection,
        credential: Option<&str>,
        unread: Payload,
    ) -> HttpResponse {
        let ingest = &self.ingest;
        ingest.pipeline.metrics.count_rejection(rejection.code());
        let id = ingest
            .request_ids
            .next_id(request.headers().get(X_REQUEST_ID));
        let rendered = RenderedResponse::from_rejection(rejection, None, id);
        self.respond(request, started, rendered, credential, Some(unread))
    }

    /// Counts an answer, logs it when it is a problem, and makes it a response.
    ///
    /// `unread`: the request's body where it was not read to its end; see [`Rendered::into_response`].
    fn respond(
        &self,
        request: &HttpRequest,
        started: Instant,
        rendered: RenderedResponse,
        credential: Option<&str>,
        unread: Option<Payload>,
    ) -> HttpResponse {
        let ingest = &self.ingest;
        let metrics = &ingest.pipeline.metrics;
        let now = Instant::now();
        metrics.record_response(rendered.status, now - started);
        if let Some(problem) = &rendered.problem
            && let Some(suppressed) = ingest.refusal_throttle.allow(problem.code)
        {
            tracing::warn!(
                request_id = problem.request_id,
                status = rendered.status,
                code = problem.code,
                credential,
                peer = request.peer_addr().map(tracing::field::display),
                path = request.path(),
                suppressed,
                "request refused"
            );
        }
        let connection = request.conn_data::<IngestConnection>();
        if let Some(connection) = connection {
            connection.mark_idle(now);
        }
        // Strangers do not keep a connection.
        let stranger = matches!(rendered.status, 401 | 404 | 405);
        let close = stranger
            || ingest.gate.is_draining()
            || connection.is_some_and(IngestConnection::is_over_limit);
        rendered.into_response(close, unread)
    }
}

/// Makes request ids: the sender's own `x-request-id` where it is a decent one.
#[derive(Debug)]
pub struct RequestIdGenerator {
    process: u32,
    numbers: AtomicU64,
}

impl RequestIdGenerator {
    /// Ids that differ from another process' (as far as its start time and pid do).
    pub fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = started.unwrap_or_default().subsec_nanos();
        Self {
            process: nanos ^ std::process::id().rotate_left(16),
            numbers: AtomicU64::new(0),
        }
    }

    fn next_id(&self, given: Option<&HeaderValue>) -> String {
        let decent = |id: &&str| (1..=128).contains(&id.len()) && !id.contains(' ');
        match given.and_then(|id| id.to_str().ok()).filter(decent) {
            Some(id) => id.to_owned(),
            None => {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                format!("{:08x}-{number:x}", self.process)
            }
        }
    }
}

impl Default for RequestIdGenerator {
    fn default() -> Self {
        Self::new()
    }
}
