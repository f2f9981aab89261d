//! The ingest listener: admit → authenticate → read → pipeline → respond.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::http::header::{CONTENT_TYPE, HeaderName};
use actix_web::web::{self, Bytes, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, rt};
use arc_swap::ArcSwap;
use butlr_event::EventType;

use super::body;
use super::connections::{ConnectionTable, IngestConnection};
use super::response::RenderedResponse;
use crate::auth::Authenticator;
use crate::budget::{InFlightBudget, RequestPermit};
use crate::delivery::WakerQueue;
use crate::metrics::EventOutcome;
use crate::pipeline::{Pipeline, PipelineRequest, RequestDetails};
use crate::rejection::{CapacityLimit, Rejection};
use crate::telemetry::LogThrottle;

/// State that all workers of the ingest listener share.
pub struct IngestState {
    /// The path of an event.
    pub pipeline: Pipeline,
    /// Limits on the events and bytes in flight.
    pub budget: Arc<InFlightBudget>,
    /// Open connections with their limit.
    pub connections: Arc<ConnectionTable>,
    /// Accepted credentials; replaced on reload.
    pub credentials: ArcSwap<Authenticator>,
    /// `http.max_body_bytes`
    pub max_body_bytes: usize,
    /// `http.body_timeout`
    pub body_timeout: Duration,
    /// `http.answer_within`, counted from the last byte of the body.
    pub answer_within: Duration,
    /// Generates ids for requests that bring none.
    pub request_ids: RequestIdGenerator,
    /// Limits the log lines about refused requests.
    pub rejection_throttle: LogThrottle,
}

/// One worker thread: the shared state and the worker's own waker queue.
#[derive(Clone)]
pub struct IngestWorker {
    ingest: Arc<IngestState>,
    waker_queue: Arc<WakerQueue>,
}

impl IngestWorker {
    /// Starts a worker. Must be called on the worker's thread, within its runtime.
    pub fn start(ingest: Arc<IngestState>) -> Self {
        let waker_queue = Arc::new(WakerQueue::default());
        rt::spawn(Arc::clone(&waker_queue).run());
        Self {
            ingest,
            waker_queue,
        }
    }

    /// Adds the routes.
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
        Ok(processing) => {
            let rendered = processing.await;
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

/// A future that runs to its end even if it is dropped: it then continues in a task of its own.
///
/// actix-web drops the handler of a client that disconnects, which must not stop a delivery
/// half-way. Spawning a task for every request would cost more, and few clients disconnect.
struct UncancellableFuture<F: Future + 'static>(Option<Pin<Box<F>>>);

impl<F: Future> Future for UncancellableFuture<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.0.as_mut().expect("not polled after its end");
        let output = ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<F: Future + 'static> Drop for UncancellableFuture<F> {
    fn drop(&mut self) {
        // Not if the future itself panicked; its undecided events are then counted as refused.
        if let Some(future) = self.0.take().filter(|_| !std::thread::panicking()) {
            drop(rt::spawn(future));
        }
    }
}

/// Admits, authenticates and reads a request. The returned future runs the pipeline.
async fn admit_request(
    worker: &IngestWorker,
    request: &HttpRequest,
    payload: &mut Payload,
    started: Instant,
    credential: &mut Option<Arc<str>>,
) -> Result<UncancellableFuture<impl Future<Output = RenderedResponse> + use<>>, Rejection> {
    let ingest = &worker.ingest;
    let connection = request.conn_data::<IngestConnection>();
    if connection.is_some_and(IngestConnection::is_over_limit) {
        return Err(Rejection::Overloaded(CapacityLimit::Connections));
    }
    ingest.budget.check()?;
    *credential = ingest.credentials.load().authenticate(request.headers());
    if credential.is_none() {
        return Err(Rejection::Unauthorized);
    }
    let expected_type = match request.match_info().get("type") {
        None => None,
        Some(spelling) => Some(EventType::parse(spelling).ok_or(Rejection::NotFound)?),
    };
    let mut permit = ingest.budget.new_permit();
    let deadline = started + ingest.body_timeout;
    let limit = ingest.max_body_bytes;
    let body = body::read(request, payload, limit, deadline, &mut permit).await;
    if body == Err(Rejection::InvalidGzip) {
        // The body is complete, so it counts as one unreadable event of an unknown type.
        let metrics = &ingest.pipeline.metrics;
        let received = metrics.count_received(None, SystemTime::now());
        received.record(EventOutcome::Refused);
    }
    let origin = RequestOrigin {
        request: request.clone(),
        credential: credential.clone(),
    };
    let processing = process_request(worker.clone(), body?, expected_type, permit, origin);
    Ok(UncancellableFuture(Some(Box::pin(processing))))
}

async fn process_request(
    worker: IngestWorker,
    body: Bytes,
    expected_type: Option<EventType>,
    mut permit: RequestPermit,
    origin: RequestOrigin,
) -> RenderedResponse {
    let ingest = &*worker.ingest;
    let request = PipelineRequest {
        body: &body,
        expected_type,
        received_at: SystemTime::now(),
        deadline: Instant::now() + ingest.answer_within,
        details: &origin,
        replayed_from: None,
    };
    let answer = ingest
        .pipeline
        .process(&request, &mut permit, &worker.waker_queue)
        .await;
    RenderedResponse::from_answer(&answer, || ingest.request_ids.id_for(&origin.request))
}

/// The request and its credential, recorded with quarantined items.
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
        let value = self.request.headers().get(CONTENT_TYPE)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

impl IngestWorker {
    /// Responds to a request that does not reach the pipeline, and counts the rejection. `unread`
    /// is its body. (The pipeline counts its own rejections.)
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
        let id = ingest.request_ids.id_for(request);
        let rendered = RenderedResponse::from_rejection(rejection, id);
        self.respond(request, started, rendered, credential, Some(unread))
    }

    /// Counts a response, logs it if it is a problem, and converts it for actix-web.
    ///
    /// `unread` is the request's body if it was not read to its end; see
    /// [`RenderedResponse::into_response`].
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
            && let Some(suppressed) = ingest.rejection_throttle.allow(problem.code)
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
        // A client that does not know the API or has no credentials keeps no connection.
        let is_stranger = matches!(rendered.status, 401 | 404 | 405);
        let close = is_stranger
            || ingest.connections.is_draining()
            || connection.is_some_and(IngestConnection::is_over_limit);
        rendered.into_response(close, unread)
    }
}

/// Generates request ids for senders that bring no usable `x-request-id`.
#[derive(Debug)]
pub struct RequestIdGenerator {
    process_id: u32,
    next_number: AtomicU64,
}

impl RequestIdGenerator {
    /// Creates a generator. Its ids differ from those of other processes as far as start time and
    /// pid do.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.unwrap_or_default().subsec_nanos();
        Self {
            process_id: nanos ^ std::process::id().rotate_left(16),
            next_number: AtomicU64::new(0),
        }
    }

    /// Returns the sender's own id if it has 1 to 128 visible characters, else a new one.
    fn id_for(&self, request: &HttpRequest) -> String {
        let is_usable = |id: &&str| (1..=128).contains(&id.len()) && !id.contains(' ');
        let id = request.headers().get(X_REQUEST_ID);
        match id.and_then(|id| id.to_str().ok()).filter(is_usable) {
            Some(id) => id.to_owned(),
            None => {
                let number = self.next_number.fetch_add(1, Ordering::Relaxed);
                format!("{:08x}-{number:x}", self.process_id)
            }
        }
    }
}

impl Default for RequestIdGenerator {
    fn default() -> Self {
        Self::new()
    }
}
