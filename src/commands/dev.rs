//! `dev`: runs Kafka, the bridge and a simulated building in one process.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::serve::{ProcessSignals, report_failure};
use super::{CommandExit, load_config, print_config_errors};
use crate::app::{self, LaunchOptions, Listeners};
use crate::config::{Config, ConfigSources};
use crate::kafka::embedded::EmbeddedKafka;
use crate::metrics::EventOutcome;
use crate::spool::store::SpoolStore;
use crate::telemetry;
use butlr_event::EventType;
use butlr_event::clock::now_ms;
use butlr_simulate::city::{CityBehaviour, CitySize};
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{self, SendTarget, StopSignal};
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};

/// Rooms of the simulated building: one floor.
const ROOMS: usize = 6;

#[derive(clap::Args, Debug)]
pub struct DevArguments {
    /// Use this Kafka instead of the embedded broker; missing topics are created there
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Do not simulate a building; wait for events from elsewhere
    #[arg(long)]
    quiet: bool,
    /// Stop after this time, for example 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

pub fn run(arguments: DevArguments) -> CommandExit {
    let mut sources = ConfigSources::default();
    let mut set = |key: &str, value: &str| {
        let value = toml::Value::String(value.to_owned());
        sources.flags.push((key.to_owned(), value));
    };
    // The embedded broker always has one replica, so a warning about it would be noise.
    let level = if arguments.kafka.is_some() {
        "warn"
    } else {
        "error"
    };
    set("log.level", level);
    // Deleted when dropped, at the end.
    let spool = match tempfile::Builder::new()
        .prefix("butlr-bridge-dev-")
        .tempdir()
    {
        Ok(spool) => spool,
        Err(error) => {
            return CommandExit::Failed.print_error(format!(
                "the temporary directory of the spool cannot be created: {error}"
            ));
        }
    };
    set("spool.dir", &spool.path().to_string_lossy());
    // A developer's disk may be nearly full.
    set("spool.max_bytes", "1GiB");
    set("spool.min_free_bytes", "64MiB");
    let defaults = match load_config(&sources) {
        Ok(config) => config,
        Err(errors) => return print_config_errors(&errors),
    };
    // The broker and its data live until it is dropped.
    let (_embedded, bootstrap) = match &arguments.kafka {
        Some(bootstrap) => (None, bootstrap.clone()),
        None => match start_embedded_kafka(&defaults) {
            Ok(broker) => {
                let bootstrap = broker.bootstrap_servers().to_owned();
                (Some(broker), bootstrap)
            }
            Err(error) => {
                return CommandExit::Failed
                    .print_error(format!("the embedded broker cannot be started: {error}"));
            }
        },
    };
    let bootstrap = toml::Value::String(bootstrap);
    sources
        .flags
        .push(("kafka.bootstrap_servers".to_owned(), bootstrap));
    let config = match load_config(&sources) {
        Ok(config) => config,
        Err(errors) => return print_config_errors(&errors),
    };
    telemetry::init(&config.log);
    let listeners = match bind_listeners(&config) {
        Ok(listeners) => listeners,
        Err(error) => return report_failure(&error),
    };
    let result = run_bridge(arguments, config, listeners, sources);
    report_undrained(&spool);
    match result {
        Ok(()) => CommandExit::Success,
        Err(error) => report_failure(&error),
    }
}

/// Prints how many events are lost with the temporary spool.
fn report_undrained(spool: &TempDir) {
    let entries: u64 =
        SpoolStore::open_read_only(spool.path()).map_or(0, |(_, found)| found.entries.iter().sum());
    if entries > 0 {
        println!("{entries} events were still in the temporary spool and are deleted with it");
    }
}

fn run_bridge(
    arguments: DevArguments,
    config: Config,
    listeners: Listeners,
    sources: ConfigSources,
) -> Result<(), app::Error> {
    let ingest = listeners.ingest.local_addr()?;
    let admin = listeners.admin.local_addr()?;
    print_banner(&config, ingest, admin, arguments.kafka.is_none());
    if !arguments.quiet {
        let url = format!("http://{ingest}/v1/events");
        let target = SendTarget::parse(&url).expect("an address makes a URL");
        std::thread::spawn(move || run_simulator(target));
    }
    std::thread::spawn(move || print_status_lines(&format!("http://{admin}/status")));
    let launch = LaunchOptions {
        create_topics: arguments.kafka.is_some(),
        config,
        listeners,
    };
    let summary = actix_web::rt::System::new().block_on(async {
        let signals = ProcessSignals::listen(sources)?;
        let limit = async {
            match arguments.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let stop = async {
            tokio::select! {
                () = signals.stopped => {}
                () = limit => {}
            }
        };
        app::run(launch, stop, signals.reloads).await
    })?;
    let ledger = summary.ledger;
    println!(
        "\nended: {} received, {} published, {} duplicates, {} spooled, {} quarantined, {} refused",
        ledger.received,
        ledger.count(EventOutcome::Published),
        ledger.count(EventOutcome::Duplicate),
        ledger.count(EventOutcome::Spooled),
        ledger.count(EventOutcome::Quarantined),
        ledger.count(EventOutcome::Refused)
    );
    Ok(())
}

/// Sends the events of the simulated building, in real time until the process ends.
fn run_simulator(target: SendTarget) {
    const SEED: u64 = 1;
    let size = CitySize {
        rooms: ROOMS,
        sensors: None,
    };
    let (city, sender) = (CityBehaviour::default(), SenderBehaviour::default());
    let stream = DeliveryStream::from_seed(SEED, size, now_ms(), city, sender);
    let options = sender::Options::new(target);
    let reason = match sender::run(
        options,
        stream,
        None,
        ProgressOutput::Silent,
        StopSignal::new(),
    ) {
        Ok(finished) => finished.unreachable.unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    tracing::error!(reason, "the simulated building has stopped sending");
}

fn start_embedded_kafka(config: &Config) -> Result<EmbeddedKafka, String> {
    let topics: Vec<_> = config
        .required_topics()
        .map(|spec| (spec.name.clone(), spec.partitions))
        .collect();
    EmbeddedKafka::start(&topics)
}

/// Binds the default ports, or free ones if those are in use.
fn bind_listeners(config: &Config) -> Result<Listeners, app::Error> {
    let bind_or_free = |address: SocketAddr| {
        TcpListener::bind(address).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
    };
    Ok(Listeners {
        ingest: bind_or_free(config.http.bind)?,
        admin: bind_or_free(config.admin.bind)?,
    })
}

fn print_banner(config: &Config, ingest: SocketAddr, admin: SocketAddr, embedded: bool) {
    let topic = |t| &config.topics.for_type(t).name;
    let rooms = topic(EventType::RoomOccupancy);
    let bootstrap = config.require_bootstrap_servers().unwrap_or_default();
    let spool = config.spool.dir.clone().unwrap_or_default();
    let spool = spool.display();
    let kind = if embedded {
        "embedded, in memory"
    } else {
        "yours"
    };
    println!(
        "\
butlr-bridge dev

  webhooks   http://{ingest}/v1/events
  status     http://{admin}/
  metrics    http://{admin}/metrics
  Kafka      {bootstrap} ({kind})
  spool      {spool} (deleted at the end)

Send an event:
  {}

Read the stored events (with kcat; the building reports its rooms at each full minute):
  kcat -q -b {bootstrap} -C -t {rooms} -f '%k  %s\\n'

Press Ctrl-C to stop. Throughput, once a second:
",
        example_curl(ingest)
    );
}

fn example_curl(ingest: SocketAddr) -> String {
    format!(
        concat!(
            "curl -sS http://{}/v1/events -H 'content-type: application/json' -d '",
            r#"{{"id":"event_by_hand_'$(date +%s)'","type":"ROOM_OCCUPANCY","timestamp":'$(date +%s)'000,"version":"v1.0.0","#,
            r#""metadata":{{"room_id":"room_by_hand"}},"data":3}}'"#
        ),
        ingest
    )
}

/// Prints one line per second, from the `/status` page that operators use.
fn print_status_lines(status_url: &str) {
    let colour = std::io::stdout().is_terminal();
    let mut before: Option<Value> = None;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let response = ureq::get(status_url).call();
        let text = response.and_then(|mut response| response.body_mut().read_to_string());
        let Some(status) = text
            .ok()
            .and_then(|t| serde_json::from_str::<Value>(&t).ok())
        else {
            continue;
        };
        println!("{}", format_status_line(&status, before.as_ref(), colour));
        before = Some(status);
    }
}

fn format_status_line(status: &Value, before: Option<&Value>, colour: bool) -> String {
    let count = |status: &Value, path: &str| status.pointer(path).and_then(Value::as_u64);
    let since = |path: &str| {
        let now = count(status, path).unwrap_or(0);
        now - before.and_then(|b| count(b, path)).unwrap_or(0).min(now)
    };
    let mut by_type: Vec<String> = Vec::new();
    for (i, t) in EventType::ALL.iter().enumerate() {
        match since(&format!("/types/{i}/published")) {
            0 => {}
            n => by_type.push(format!("{} {n}", t.kebab_name())),
        }
    }
    let refused = count(status, "/ledger/refused").unwrap_or(0);
    let refused = match (refused, colour) {
        (0, _) => "0 refused".to_owned(),
        (n, true) => format!("\x1b[31m{n} refused\x1b[0m"),
        (n, false) => format!("{n} refused"),
    };
    // Shown only if there are any.
    let stored_elsewhere = ["spooled", "quarantined"].map(|outcome| {
        match count(status, &format!("/ledger/{outcome}")).unwrap_or(0) {
            0 => String::new(),
            n => format!("  {n} {outcome}"),
        }
    });
    let stored_elsewhere = stored_elsewhere.concat();
    format!(
        "{:>5} events/s  {:>8} published  {:>5} duplicates  {refused}{stored_elsewhere}   {}",
        since("/ledger/received"),
        count(status, "/ledger/published").unwrap_or(0),
        count(status, "/ledger/duplicate").unwrap_or(0),
        by_type.join("  ")
    )
}
