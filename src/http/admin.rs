//! The admin listener: metrics and probes for machines, `/status` and a page for operators.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use arc_swap::ArcSwap;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use serde_json::{Value, json};

use super::ingest::IngestState;
use crate::auth::AdminAuthenticator;
use crate::budget::BoundedCounter;
use crate::kafka::lane::TopicState;
use crate::metrics::{EventOutcome, EventTotals};
use butlr_event::clock::unix_seconds;

/// State of the admin listener.
pub struct AdminState {
    /// The ingest listener, whose state is shown.
    pub ingest: Arc<IngestState>,
    /// `kafka.away_after`
    pub away_after: Duration,
    /// Credentials for the page and `/status`.
    pub credentials: AdminAuthenticator,
    /// `true` if other machines can reach the listener.
    pub is_exposed: bool,
    /// Start of the bridge.
    pub started_at: Instant,
    /// Settings of the bridge and of its topics that weaken the promise.
    pub warnings: Arc<ArcSwap<Vec<String>>>,
}

impl AdminState {
    /// Adds the routes.
    pub fn configure_routes(self: Arc<Self>, config: &mut ServiceConfig) {
        config
            .app_data(Data::from(Arc::clone(&self)))
            .service(web::resource("/metrics").route(web::get().to(metrics)))
            .service(web::resource("/livez").route(web::get().to(livez)))
            .service(web::resource("/readyz").route(web::get().to(readyz)));
        // Without credentials, other machines see metrics and probes only.
        if !self.is_exposed || self.credentials.is_configured() {
            config
                .service(web::resource("/status").route(web::get().to(status)))
                .service(web::resource("/").route(web::get().to(page)));
        }
    }

    /// Returns the reason why no event can be stored now; `None` if the bridge is ready.
    fn unready_reason(&self) -> Option<String> {
        if self.ingest.connections.is_draining() {
            return Some("shutting down".to_owned());
        }
        let pipeline = &self.ingest.pipeline;
        let spool = pipeline.spool.as_ref();
        if spool.is_some_and(|spool| spool.is_writable()) {
            return None;
        }
        match pipeline.contact.age() {
            None => Some("Kafka has not been reached yet".to_owned()),
            Some(age) if age > self.away_after => Some(format!(
                "Kafka has been unreachable for {}",
                humantime::format_duration(Duration::from_secs(age.as_secs()))
            )),
            Some(_) if !self.has_available_topic() => {
                Some("none of the topics is available".to_owned())
            }
            Some(_) => None,
        }
    }

    fn has_available_topic(&self) -> bool {
        let mut lanes = self.ingest.pipeline.lanes.iter();
        lanes.any(|lane| {
            lane.destination() != Destination::Quarantine && lane.state() == TopicState::Available
        })
    }

    fn update_gauges(&self) {
        let ingest = &self.ingest;
        let pipeline = &ingest.pipeline;
        let gauges = &pipeline.metrics.in_flight;
        let (budget, open) = (&ingest.budget, &ingest.connections.count);
        let counters = [
            (&budget.events, &gauges.events, &gauges.events_limit),
            (&budget.bytes, &gauges.bytes, &gauges.bytes_limit),
            (open, &gauges.connections, &gauges.connections_limit),
        ];
        for (counter, current, limit) in counters {
            current.set(counter.current() as i64);
            limit.set(counter.limit() as i64);
        }
        if let Some(spool) = &pipeline.spool {
            spool.set_gauges();
        }
        let Some(deduplicator) = &pipeline.deduplicator else {
            return;
        };
        let dedup = &pipeline.metrics.dedup;
        let entries = deduplicator.memory().entry_counts();
        let kinds = [
            ("ids", entries.ids),
            ("readings", entries.readings),
            ("sources", entries.sources),
        ];
        for (kind, count) in kinds {
            dedup.entries.with_label_values(&[kind]).set(count as i64);
        }
        dedup.rebuilding.set(i64::from(!deduplicator.is_rebuilt()));
        let evictions = deduplicator.memory().evictions();
        dedup
            .evictions
            .inc_by(evictions.saturating_sub(dedup.evictions.get()));
    }

    fn dedup_status(&self) -> Option<Value> {
        let deduplicator = self.ingest.pipeline.deduplicator.as_ref()?;
        let entries = deduplicator.memory().entry_counts();
        Some(json!({
            "rebuilding": !deduplicator.is_rebuilt(),
            "incomplete_reason": deduplicator.incomplete_reason(),
            "ids": entries.ids,
            "readings": entries.readings,
            "sources": entries.sources,
            "undecided": entries.undecided,
            "evictions": deduplicator.memory().evictions(),
        }))
    }

    fn spool_status(&self) -> Option<Value> {
        let spool = self.ingest.pipeline.spool.as_ref()?;
        let (state, ledger) = (spool.state(), spool.ledger());
        let waiting = state.destinations.iter().filter(|d| d.present > 0);
        let waiting = waiting.map(|d| {
            json!({
                "destination": d.destination.name(),
                "present": d.present,
                "backlog": d.backlog,
                "circuit_open": d.circuit_open,
                "searching": d.is_searching,
            })
        });
        Some(json!({
            "present": ledger.present,
            "bytes": state.bytes,
            "limit_bytes": state.limit_bytes,
            "oldest_age_seconds": state.oldest_age.map(|age| age.as_secs_f64()),
            "writable": spool.is_writable(),
            "set_aside": state.dead_letters,
            "poisoned": state.poison_reason,
            "full": state.full_reason,
            "waiting": waiting.collect::<Vec<_>>(),
            "ledger": {
                "recovered": ledger.recovered,
                "spooled": ledger.spooled,
                "drained": ledger.drained,
                "confirmed_late": ledger.confirmed_late,
                "already_stored": ledger.already_stored,
                "set_aside": ledger.dead_letters,
                "lost": ledger.lost,
                "present": ledger.present,
            },
        }))
    }

    fn types_status(&self) -> Vec<Value> {
        let pipeline = &self.ingest.pipeline;
        let now = unix_seconds(SystemTime::now());
        let totals = pipeline.metrics.totals_by_type().enumerate();
        let types = totals.map(|(index, (name, totals, last_received))| {
            let destination = match EventType::ALL.get(index) {
                Some(event_type) => Some(Destination::Events(*event_type)),
                // Items of unknown type go to the quarantine, like all rejected items.
                None => pipeline.quarantine.keep.then_some(Destination::Quarantine),
            };
            let lane = destination.map(|destination| &pipeline.lanes[destination.index()]);
            let seconds_ago = (last_received > 0.0).then_some((now - last_received).max(0.0));
            let mut status = totals_status(&totals);
            status["type"] = json!(name);
            status["last_received_seconds_ago"] = json!(seconds_ago);
            status["topic"] = json!(lane.map(|lane| lane.topic()));
            status["topic_state"] = json!(lane.map(|lane| lane.state().as_str()));
            status["in_flight"] = json!(lane.map(|lane| lane.in_flight()));
            status
        });
        types.collect()
    }

    fn status(&self) -> Value {
        let ingest = &self.ingest;
        let pipeline = &ingest.pipeline;
        let unready_reason = self.unready_reason();
        let mut ledger = totals_status(&pipeline.metrics.totals());
        ledger["in_flight"] = json!(ingest.budget.events.current());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started_at.elapsed().as_secs(),
            "ready": unready_reason.is_none(),
            "not_ready_reason": unready_reason,
            "kafka": {
                "last_contact_seconds_ago": pipeline.contact.age().map(|age| age.as_secs_f64()),
                "producer_replacements": pipeline.metrics.kafka.producer_replacements.get(),
            },
            "ledger": ledger,
            "dedup": self.dedup_status(),
            "spool": self.spool_status(),
            "limits": {
                "events": counter_status(&ingest.budget.events),
                "bytes": counter_status(&ingest.budget.bytes),
                "connections": counter_status(&ingest.connections.count),
            },
            "credentials": ingest.credentials.load().names().collect::<Vec<_>>(),
            "warnings": **self.warnings.load(),
            "types": self.types_status(),
        })
    }

    fn reject_unauthenticated(&self, request: &HttpRequest) -> Option<HttpResponse> {
        (!self.credentials.is_allowed(request.headers())).then(|| {
            HttpResponse::Unauthorized()
                .insert_header((WWW_AUTHENTICATE, "Basic realm=\"butlr-bridge admin\""))
                .body("missing or invalid credentials\n")
        })
    }
}

fn totals_status(totals: &EventTotals) -> Value {
    json!({
        "received": totals.received,
        "published": totals.count(EventOutcome::Published),
        "duplicate": totals.count(EventOutcome::Duplicate),
        "spooled": totals.count(EventOutcome::Spooled),
        "quarantined": totals.count(EventOutcome::Quarantined),
        "refused": totals.count(EventOutcome::Refused),
    })
}

fn counter_status(counter: &BoundedCounter) -> Value {
    json!({"now": counter.current(), "limit": counter.limit()})
}

async fn metrics(admin: Data<AdminState>) -> HttpResponse {
    admin.update_gauges();
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, prometheus::TEXT_FORMAT))
        .body(admin.ingest.pipeline.metrics.encode())
}

async fn livez() -> &'static str {
    "alive\n"
}

async fn readyz(admin: Data<AdminState>) -> HttpResponse {
    match admin.unready_reason() {
        None => HttpResponse::Ok().body("ready\n"),
        Some(reason) => HttpResponse::ServiceUnavailable().body(format!("not ready: {reason}\n")),
    }
}

async fn status(request: HttpRequest, admin: Data<AdminState>) -> HttpResponse {
    admin.reject_unauthenticated(&request).unwrap_or_else(|| {
        HttpResponse::Ok()
            .insert_header((CACHE_CONTROL, "no-store"))
            .json(admin.status())
    })
}

async fn page(request: HttpRequest, admin: Data<AdminState>) -> HttpResponse {
    admin.reject_unauthenticated(&request).unwrap_or_else(|| {
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((
                "content-security-policy",
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
            ))
            .body(include_str!("status.html"))
    })
}
