//! Benchmark program (c): the smallest honest bridge, the baseline for `butlr-bridge`. It parses
//! the few fields that it needs, publishes the body unchanged, and responds once Kafka has
//! confirmed it. It has no limits, no authentication, no useful error responses, no record headers
//! and no metrics.
//!
//! On SIGTERM it waits for events in flight, and prints the number of accepted events as JSON.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, rt, web};
use clap::Parser;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

#[derive(Parser)]
struct SmallestBridgeOptions {
    #[arg(long, default_value = "127.0.0.1:8082")]
    bind: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9092")]
    kafka: String,
    /// Topic template; `{type}` is replaced by the event's type, such as `room-occupancy`.
    #[arg(long, default_value = "bench.{type}.v1")]
    topic: String,
    /// Overrides a librdkafka property, to find settings that make this program faster.
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
}

const TYPES: [&str; 10] = [
    "DETECTIONS",
    "TRAFFIC",
    "FLOOR_OCCUPANCY",
    "FLOOR_OCCUPANCY_1MIN",
    "ROOM_OCCUPANCY",
    "ROOM_OCCUPANCY_1MIN",
    "ZONE_OCCUPANCY",
    "ZONE_OCCUPANCY_1MIN",
    "PIR_MOTION",
    "PIR_NO_MOTION",
];

/// The fields of an event that are parsed. Strings without escapes are borrowed from the body.
#[derive(Deserialize)]
struct IncomingEvent<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    timestamp: i64,
    #[serde(borrow)]
    metadata: EventSpace<'a>,
}

#[derive(Deserialize)]
struct EventSpace<'a> {
    #[serde(borrow)]
    room_id: Cow<'a, str>,
}

/// Passes each delivery report to the request that waits for it.
struct ReportForwarder;

/// Partition and offset of a stored record; `None` if the delivery failed.
type StoredOffset = Option<(i32, i64)>;

impl ClientContext for ReportForwarder {}

impl ProducerContext for ReportForwarder {
    type DeliveryOpaque = Box<oneshot::Sender<StoredOffset>>;

    fn delivery(&self, result: &DeliveryResult<'_>, request: Self::DeliveryOpaque) {
        let report = result
            .as_ref()
            .ok()
            .map(|record| (record.partition(), record.offset()));
        // Fails if the request was cancelled.
        let _ = request.send(report);
    }
}

struct SmallestBridge {
    producer: ThreadedProducer<ReportForwarder>,
    /// One topic per type, in the order of [`TYPES`].
    topics: [String; 10],
    accepted: AtomicU64,
}

async fn publish(bridge: web::Data<SmallestBridge>, body: web::Bytes) -> HttpResponse {
    let Ok(event) = serde_json::from_slice::<IncomingEvent<'_>>(&body) else {
        return HttpResponse::BadRequest().finish();
    };
    let Some(index) = TYPES.iter().position(|name| *name == event.event_type) else {
        return HttpResponse::UnprocessableEntity().finish();
    };
    if event.id.is_empty() {
        return HttpResponse::UnprocessableEntity().finish();
    }
    let (sender, report) = oneshot::channel();
    let record = BaseRecord::with_opaque_to(&bridge.topics[index], Box::new(sender))
        .key(event.metadata.room_id.as_ref())
        .payload(body.as_ref())
        .timestamp(event.timestamp);
    if bridge.producer.send(record).is_err() {
        return HttpResponse::ServiceUnavailable().finish();
    }
    match report.await {
        Ok(Some((partition, offset))) => {
            bridge.accepted.fetch_add(1, Ordering::Relaxed);
            HttpResponse::Ok()
                .content_type(ContentType::json())
                .body(format!(
                    r#"{{"status":"published","partition":{partition},"offset":{offset}}}"#
                ))
        }
        _ => HttpResponse::ServiceUnavailable().finish(),
    }
}

fn main() -> io::Result<()> {
    let options = SmallestBridgeOptions::parse();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.kafka)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .set("allow.auto.create.topics", "false");
    for (name, value) in options
        .property
        .iter()
        .filter_map(|property| property.split_once('='))
    {
        config.set(name, value);
    }
    let producer: ThreadedProducer<ReportForwarder> = config
        .create_with_context(ReportForwarder)
        .map_err(io::Error::other)?;
    let topics = TYPES.map(|name| {
        options
            .topic
            .replace("{type}", &name.to_lowercase().replace('_', "-"))
    });
    let bridge = web::Data::new(SmallestBridge {
        producer,
        topics,
        accepted: AtomicU64::new(0),
    });

    let shared = bridge.clone();
    rt::System::new().block_on(
        HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/v1/events", web::post().to(publish))
        })
        .workers(available_parallelism()?.get())
        .shutdown_timeout(5)
        .bind(options.bind)?
        .run(),
    )?;
    bridge
        .producer
        .flush(Duration::from_secs(10))
        .map_err(io::Error::other)?;
    println!(
        "{}",
        json!({ "accepted": bridge.accepted.load(Ordering::Relaxed) })
    );
    Ok(())
}
