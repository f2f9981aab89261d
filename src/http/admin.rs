//! The admin listener: metrics and probes for machines, `/status` and a page for people.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::ingest::IngestState;
use crate::auth::AdminAuthenticator;
use crate::kafka::contact::Contact;
use crate::kafka::lane::TopicState;
use crate::metrics::EventOutcome;
use butlr_event::EventType;
use butlr_event::clock::unix_seconds;
use butlr_event::destination::Destination;

/// What the admin listener shows.
pub struct AdminState {
    /// The bridge.
    pub ingest: Arc<IngestState>,
    /// When Kafka was last heard of.
    pub contact: Arc<Contact>,
    /// `kafka.away_after`
    pub away_after: Duration,
    /// Who may see the page and `/status`.
    pub credentials: AdminAuthenticator,
    /// Whether the listener is beyond loopback.
    pub is_exposed: bool,
    /// When the bridge started.
    pub started_at: Instant,
    /// What is legal but weak.
    pub warnings: Arc<ArcSwap<Vec<String>>>,
}

impl AdminState {
    /// The routes.
    pub fn configure_routes(self: Arc<Self>, config: &mut ServiceConfig) {
        let get = |path: &str| web::resource(path);
        config
            .app_data(Data::from(Arc::clone(&self)))
            .service(get("/metrics").route(web::get().to(metrics)))
            .service(get("/livez").route(web::get().to(livez)))
            .service(get("/readyz").route(web::get().to(readyz)));
        // Beyond loopback nobody sees more than metrics and probes without credentials.
        if !self.is_exposed || self.credentials.is_configured() {
            config
                .service(get("/status").route(web::get().to(status)))
                .service(get("/").route(web::get().to(page)));
        }
    }

    /// Ready means: it can store an event now.
    fn unready_reason(&self) -> Option<String> {
        if self.ingest.gate.is_draining() {
            return Some("shutting down".to_owned());
        }
        let spool = self.ingest.pipeline.spool.as_ref();
        if spool.is_some_and(|spool| spool.is_writable()) {
            return None;
        }
        match self.contact.age() {
            None => Some("Kafka has not been reached yet".to_owned()),
            Some(age) if age > self.away_after => Some(format!(
                "Kafka has been away for {}",
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
        let gate = &self.ingest.gate;
        let gauges = &self.ingest.pipeline.metrics.in_flight;
        let all = [
            (&gauges.events, gate.events.current()),
            (&gauges.events_limit, gate.events.limit()),
            (&gauges.bytes, gate.bytes.current()),
            (&gauges.bytes_limit, gate.bytes.limit()),
            (&gauges.connections, gate.connections.current()),
            (&gauges.connections_limit, gate.connections.limit()),
        ];
        for (gauge, value) in all {
            gauge.set(value as i64);
        }
        if let Some(spool) = &self.ingest.pipeline.spool {
            spool.set_gauges();
        }
        let Some(deduplicator) = &self.ingest.pipeline.deduplicator else {
            return;
        };
        let dedup = &self.ingest.pipeline.metrics.dedup;
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
            "incomplete_because": deduplicator.incomplete_reason(),
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
                "not_handed_over": d.backlog,
                "circuit_open": d.circuit_open,
                "being_looked_for": d.is_searching,
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

    fn status(&self) -> Value {
        let pipeline = &self.ingest.pipeline;
        let gate = &self.ingest.gate;
        let now = unix_seconds(SystemTime::now());
        let types: Vec<_> = pipeline
            .metrics
            .totals_by_type()
            .enumerate()
            .map(|(i, (name, ledger, last))| {
                let to = match EventType::ALL.get(i) {
                    Some(t) => Some(Destination::Events(*t)),
                    // What is of no known type goes there, with all else that is not valid.
                    None => pipeline.quarantine.keep.then_some(Destination::Quarantine),
                };
                let lane = to.map(|to| &pipeline.lanes[to.index()]);
                json!({
                    "type": name,
                    "received": ledger.received,
                    "published": ledger.count(EventOutcome::Published),
                    "duplicate": ledger.count(EventOutcome::Duplicate),
                    "spooled": ledger.count(EventOutcome::Spooled),
                    "quarantined": ledger.count(EventOutcome::Quarantined),
                    "refused": ledger.count(EventOutcome::Refused),
                    "last_received_seconds_ago": (last > 0.0).then_some((now - last).max(0.0)),
                    "topic": lane.map(|l| l.topic()),
                    "topic_state": lane.map(|l| l.state().as_str()),
                    "in_flight": lane.map(|l| l.in_flight()),
                })
            })
            .collect();
        let total = pipeline.metrics.totals();
        let not_ready = self.unready_reason();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started_at.elapsed().as_secs(),
            "ready": not_ready.is_none(),
            "not_ready_because": not_ready,
            "kafka": {
                "last_contact_seconds_ago": self.contact.age().map(|age| age.as_secs_f64()),
                "producer_replacements": pipeline.metrics.kafka.producer_replacements.get(),
            },
            "ledger": {
                "received": total.received,
                "published": total.count(EventOutcome::Published),
                "duplicate": total.count(EventOutcome::Duplicate),
                "spooled": total.count(EventOutcome::Spooled),
                "quarantined": total.count(EventOutcome::Quarantined),
                "refused": total.count(EventOutcome::Refused),
                "in_flight": gate.events.current(),
            },
            "dedup": self.dedup_status(),
            "spool": self.spool_status(),
            "limits": {
                "events": {"now": gate.events.current(), "limit": gate.events.limit()},
                "bytes": {"now": gate.bytes.current(), "limit": gate.bytes.limit()},
                "connections": {"now": gate.connections.current(), "limit": gate.connections.limit()},
            },
            "credentials": self.ingest.credentials.load().names().collect::<Vec<_>>(),
            "warnings": **self.warnings.load(),
            "types": types,
        })
    }

    fn reject_unauthenticated(&self, request: &HttpRequest) -> Option<HttpResponse> {
        (!self.credentials.is_allowed(request.headers())).then(|| {
            HttpResponse::Unauthorized()
                .insert_header((WWW_AUTHENTICATE, "Basic realm=\"butlr-bridge admin\""))
                .body("credentials missing or wrong\n")
        })
    }
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
