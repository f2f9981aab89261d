//! `dev`: everything in one process, with nothing to install.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::serve::{ProcessSignals, report_failure};
use super::{EXIT_FAILED, load_config, report_mistakes};
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

/// One floor of a small building.
const ROOMS: usize = 6;

#[derive(clap::Args, Debug)]
pub struct DevArguments {
    /// Use this Kafka instead of the embedded broker; its missing topics are created
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Send nothing; wait for events from elsewhere
    #[arg(long)]
    quiet: bool,
    /// End by itself after so long, for example 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

pub fn run(arguments: DevArguments) -> ExitCode {
    let mut sources = ConfigSources::default();
    let mut set = |key: &str, value: &str| {
        let value = toml::Value::String(value.to_owned());
        sources.flags.push((key.to_owned(), value));
    };
    // That the embedded broker has one replica is no news; a Kafka of the user's may be worth a warning.
    let level = match arguments.kafka {
        None => "error",
        Some(_) => "warn",
    };
    set("log.level", level);
    // Kept until the end, too.
    let spool = match tempfile::Builder::new()
        .prefix("butlr-bridge-dev-")
        .tempdir()
    {
        Ok(spool) => spool,
        Err(error) => {
            eprintln!("no temporary folder can be made for the spool: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    set("spool.dir", &spool.path().to_string_lossy());
    // A machine to look around on may be nearly full.
    set("spool.max_bytes", "1GiB");
    set("spool.min_free_bytes", "64MiB");
    let defaults = match load_config(&sources) {
        Ok(config) => config,
        Err(mistakes) => return report_mistakes(&mistakes),
    };
    // Kept until the end: with it goes what it stores.
    let (_embedded, bootstrap) = match &arguments.kafka {
        Some(bootstrap) => (None, bootstrap.clone()),
        None => match start_embedded_kafka(&defaults) {
            Ok(broker) => {
                let bootstrap = broker.bootstrap_servers().to_owned();
                (Some(broker), bootstrap)
            }
            Err(error) => {
                eprintln!("the embedded broker does not start: {error}");
                return ExitCode::from(EXIT_FAILED);
            }
        },
    };
    let bootstrap = toml::Value::String(bootstrap);
    sources
        .flags
        .push(("kafka.bootstrap_servers".to_owned(), bootstrap));
    let config = match load_config(&sources) {
        Ok(config) => config,
        Err(mistakes) => return report_mistakes(&mistakes),
    };
    telemetry::init(&config.log);
    let listeners = match bind_listeners(&config) {
        Ok(listeners) => listeners,
        Err(error) => return report_failure(&error),
    };
    let ended = run_bridge(arguments, config, listeners, sources);
    report_undrained(&spool);
    match ended {
        Ok(code) => code,
        Err(error) => report_failure(&error),
    }
}

/// What goes with the spool.
fn report_undrained(spool: &TempDir) {
    let left =
        SpoolStore::open_read_only(spool.path()).map_or(0, |(_, found)| found.entries.iter().sum());
    if left > 0 {
        println!("{left} events were still in the spool, waiting for Kafka, and are gone with it");
    }
}

fn run_bridge(
    arguments: DevArguments,
    config: Config,
    listeners: Listeners,
    sources: ConfigSources,
) -> Result<ExitCode, app::Error> {
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
    Ok(ExitCode::SUCCESS)
}

/// What `simulate` does, in real time and for as long as the process lives.
fn run_simulator(target: SendTarget) {
    const SEED: u64 = 1;
    let size = CitySize {
        rooms: ROOMS,
        sensors: None,
    };
    let (habits, behaviour) = (CityBehaviour::default(), SenderBehaviour::default());
    let stream = DeliveryStream::from_seed(SEED, size, now_ms(), habits, behaviour);
    let options = sender::Options::new(target);
    let ended = match sender::run(
        options,
        stream,
        None,
        ProgressOutput::Silent,
        StopSignal::new(),
    ) {
        Ok(finished) => finished.unreachable.unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    tracing::error!(ended, "the simulated building sends nothing any more");
}

fn start_embedded_kafka(config: &Config) -> Result<EmbeddedKafka, String> {
    let topics: Vec<_> = config
        .required_topics()
        .map(|spec| (spec.name.clone(), spec.partitions))
        .collect();
    EmbeddedKafka::start(&topics)
}

/// The usual ports, or free ones where something listens there already.
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
  spool      {spool} (goes when this ends)

Send an event:
  {}

Read what arrived (kcat; the building's rooms are counted at each full minute):
  kcat -q -b {bootstrap} -C -t {rooms} -f '%k  %s\\n'

Ctrl-C ends it. Once a second, what flows:
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

/// One line a second, from the same `/status` that an operator reads.
fn print_status_lines(status_url: &str) {
    let colour = std::io::stdout().is_terminal();
    let mut before: Option<Value> = None;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let answer = ureq::get(status_url).call();
        let text = answer.and_then(|mut response| response.body_mut().read_to_string());
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
    let mut flows: Vec<String> = Vec::new();
    for (i, t) in EventType::ALL.iter().enumerate() {
        match since(&format!("/types/{i}/published")) {
            0 => {}
            n => flows.push(format!("{} {n}", t.kebab_name())),
        }
    }
    let refused = count(status, "/ledger/refused").unwrap_or(0);
    let refused = match (refused, colour) {
        (0, _) => "0 refused".to_owned(),
        (n, true) => format!("\x1b[31m{n} refused\x1b[0m"),
        (n, false) => format!("{n} refused"),
    };
    // Only where there is something to see.
    let kept = ["spooled", "quarantined"].map(|outcome| {
        match count(status, &format!("/ledger/{outcome}")).unwrap_or(0) {
            0 => String::new(),
            n => format!("  {n} {outcome}"),
        }
    });
    let kept = kept.concat();
    format!(
        "{:>5} events/s  {:>8} published  {:>5} duplicates  {refused}{kept}   {}",
        since("/ledger/received"),
        count(status, "/ledger/published").unwrap_or(0),
        count(status, "/ledger/duplicate").unwrap_or(0),
        flows.join("  ")
    )
}
