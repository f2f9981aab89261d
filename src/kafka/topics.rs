//! The topics that the bridge needs against what the broker has; missing ones can be created, nothing else is changed.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tokio::sync::oneshot;

use super::client;
use crate::config::{Config, RECORD_OVERHEAD, TopicSpec};

/// The longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What was found about one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFinding {
    /// It does not exist.
    Missing,
    /// It is other than configured.
    Drift(String),
    /// It works, and endangers what the bridge promises.
    Danger(String),
}

impl fmt::Display for TopicFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicFinding::Missing => f.write_str("missing"),
            TopicFinding::Drift(text) => write!(f, "differs: {text}"),
            TopicFinding::Danger(text) => write!(f, "dangerous: {text}"),
        }
    }
}

/// One topic and what was found about it.
#[derive(Clone, Debug)]
pub struct TopicReport {
    /// Its name.
    pub topic: String,
    /// How many partitions it has; 0 where it is missing.
    pub partitions: usize,
    /// Nothing, where all is well.
    pub findings: Vec<TopicFinding>,
}

/// All topics, in the order of the event types, then the quarantine.
#[derive(Clone, Debug)]
pub struct TopicInspection {
    /// One entry a topic.
    pub topics: Vec<TopicReport>,
    /// Why the topics' configuration could not be read, where it could not.
    pub unreadable: Option<String>,
}

impl TopicInspection {
    /// Whether a topic is missing or other than configured.
    pub fn has_drifted(&self) -> bool {
        let mut findings = self.topics.iter().flat_map(|t| &t.findings);
        findings.any(|f| !matches!(f, TopicFinding::Danger(_)))
    }

    /// Whether a topic does not exist.
    pub fn has_missing(&self) -> bool {
        let mut findings = self.topics.iter().flat_map(|t| &t.findings);
        findings.any(|f| *f == TopicFinding::Missing)
    }

    /// What is dangerous, one sentence each; a sentence that holds for all topics comes once.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        let mut by_text: Vec<(&str, Vec<&str>)> = Vec::new();
        for topic in &self.topics {
            for finding in &topic.findings {
                if let TopicFinding::Danger(text) = finding {
                    match by_text.iter_mut().find(|(t, _)| t == text) {
                        Some((_, topics)) => topics.push(&topic.topic),
                        None => by_text.push((text, vec![&topic.topic])),
                    }
                }
            }
        }
        let unreadable = self.unreadable.as_ref().map(|reason| {
            format!(
                "the topics' settings cannot be read ({reason}), so it is not known whether they keep what a 200 promises; grant DescribeConfigs"
            )
        });
        let all = self.topics.len();
        by_text
            .into_iter()
            .map(move |(text, topics)| match topics.as_slice() {
                [one] => format!("topic {one}: {text}"),
                topics if topics.len() == all => format!("all {all} topics: {text}"),
                topics => format!("topics {}: {text}", topics.join(", ")),
            })
            .chain(unreadable)
    }
}

/// Why the topics could not be looked at or created.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// An admin client that ends on a thread of its own: librdkafka waits for its threads, one of which may wait for a name
/// server.
#[derive(Clone)]
struct TopicAdmin(Option<Arc<AdminClient<DefaultClientContext>>>);

impl TopicAdmin {
    fn new(config: &Config) -> Result<Self, Error> {
        let bootstrap = config
            .require_bootstrap_servers()
            .map_err(|m| Error(m.to_string()))?;
        let client = client::base_config(&config.kafka, bootstrap).create();
        let client = client.map_err(|e| Error(e.to_string()))?;
        Ok(Self(Some(Arc::new(client))))
    }
}

impl Deref for TopicAdmin {
    type Target = AdminClient<DefaultClientContext>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for TopicAdmin {
    fn drop(&mut self) {
        let client = self.0.take();
        std::thread::spawn(move || drop(client));
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_TIMEOUT))
        .operation_timeout(Some(ANSWER_TIMEOUT))
}

/// Compares; changes nothing, and creates nothing by looking.
///
/// # Errors
/// Kafka cannot be reached.
pub async fn inspect(config: &Config) -> Result<TopicInspection, Error> {
    let admin = TopicAdmin::new(config)?;
    let names: Vec<String> = config.required_topics().map(|t| t.name.clone()).collect();
    // A plain thread, not one of the runtime's: those are waited for when a process ends, and this call can take long.
    let (done, seen) = oneshot::channel();
    std::thread::spawn({
        let (admin, names) = (admin.clone(), names.clone());
        move || {
            let looks = names.iter().map(|name| fetch_topic(&admin, name));
            let _ = done.send(looks.collect::<Result<Vec<ObservedTopic>, Error>>());
        }
    });
    let mut seen = seen
        .await
        .unwrap_or_else(|_| Err(Error("the look at the topics broke off".to_owned())))?;

    let present = names.iter().zip(&seen).filter(|(_, s)| s.partitions > 0);
    let resources: Vec<_> = present
        .map(|(name, _)| ResourceSpecifier::Topic(name))
        .collect();
    let mut unreadable = None;
    if !resources.is_empty() {
        match admin.describe_configs(&resources, &admin_options()).await {
            Err(error) => unreadable = Some(error.to_string()),
            Ok(described) => {
                let mut described = described.into_iter();
                for topic in seen.iter_mut().filter(|s| s.partitions > 0) {
                    match described.next() {
                        Some(Ok(resource)) => {
                            topic.settings = Some(TopicSettings::from_resource(&resource))
                        }
                        Some(Err(code)) => unreadable = Some(code.to_string()),
                        None => {}
                    }
                }
            }
        }
    }
    let limits = InspectionLimits {
        max_past: config.kafka.max_past,
        max_event_bytes: config.http.max_event_bytes,
    };
    let topics = config.required_topics().zip(seen);
    let topics = topics.map(|(spec, seen)| TopicReport {
        topic: spec.name.clone(),
        partitions: seen.partitions,
        findings: evaluate_topic(spec, &seen, &limits),
    });
    Ok(TopicInspection {
        topics: topics.collect(),
        unreadable,
    })
}

/// Creates the topics that the report misses; never changes one that is there.
///
/// # Errors
/// Kafka cannot be reached. That one topic was refused is in its entry.
pub async fn create_missing(
    config: &Config,
    report: &TopicInspection,
) -> Result<Vec<(String, Result<(), String>)>, Error> {
    let all = config.required_topics().zip(&report.topics);
    let missing: Vec<_> = all
        .filter(|(_, seen)| seen.findings.contains(&TopicFinding::Missing))
        .map(|(spec, _)| (spec, creation_settings(spec)))
        .collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let new_topics: Vec<_> = missing
        .iter()
        .map(|(spec, settings)| {
            // -1: the broker's own default (KIP-464).
            let replication = TopicReplication::Fixed(spec.replication_factor.unwrap_or(-1));
            let topic = NewTopic::new(&spec.name, spec.partitions, replication);
            settings.iter().fold(topic, |topic, (k, v)| topic.set(k, v))
        })
        .collect();
    let created = TopicAdmin::new(config)?
        .create_topics(&new_topics, &admin_options())
        .await
        .map_err(|e| Error(e.to_string()))?;
    let names = missing.iter().map(|(spec, _)| spec.name.clone());
    let results = created.into_iter().map(|result| match result {
        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
        Err((_, code)) => Err(code.to_string()),
    });
    Ok(names.zip(results).collect())
}

fn creation_settings(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let retention = spec
        .retention
        .map_or_else(|| "-1".to_owned(), |r| r.as_millis().to_string());
    let mut settings = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("retention.ms", retention),
    ];
    if let Some(replicas) = spec.min_insync_replicas {
        settings.push(("min.insync.replicas", replicas.to_string()));
    }
    settings
}

#[derive(Debug, Default)]
struct ObservedTopic {
    partitions: usize,
    replicas: usize,
    forbidden: bool,
    settings: Option<TopicSettings>,
}

/// A broker's settings of one topic; `None` where it does not say.
#[derive(Debug, Default)]
struct TopicSettings {
    cleanup_policy: Option<String>,
    timestamp_type: Option<String>,
    /// ms; -1 is forever.
    retention: Option<i64>,
    min_insync_replicas: Option<i64>,
    max_message_bytes: Option<i64>,
    unclean_leader_election: Option<bool>,
}

impl TopicSettings {
    fn from_resource(resource: &ConfigResource) -> Self {
        let text = |name| resource.get(name).and_then(|entry| entry.value.clone());
        let number = |name| text(name).and_then(|v| v.parse().ok());
        Self {
            cleanup_policy: text("cleanup.policy"),
            timestamp_type: text("message.timestamp.type"),
            retention: number("retention.ms"),
            min_insync_replicas: number("min.insync.replicas"),
            max_message_bytes: number("max.message.bytes"),
            unclean_leader_election: text("unclean.leader.election.enable").map(|v| v == "true"),
        }
    }
}

fn fetch_topic(admin: &TopicAdmin, topic: &str) -> Result<ObservedTopic, Error> {
    use RDKafkaRespErr::*;
    let metadata = admin
        .inner()
        .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
        .map_err(|e| Error(format!("Kafka cannot be reached: {e}")))?;
    let Some(topic) = metadata.topics().first() else {
        return Ok(ObservedTopic::default());
    };
    let replicas = topic.partitions().iter().map(|p| p.replicas().len());
    Ok(ObservedTopic {
        partitions: topic.partitions().len(),
        replicas: replicas.min().unwrap_or(0),
        forbidden: topic.error() == Some(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED),
        settings: None,
    })
}

struct InspectionLimits {
    max_past: Duration,
    max_event_bytes: usize,
}

fn evaluate_topic(
    spec: &TopicSpec,
    seen: &ObservedTopic,
    limits: &InspectionLimits,
) -> Vec<TopicFinding> {
    if seen.forbidden {
        let text = "the bridge's user may not see it; grant Describe and Write";
        return vec![TopicFinding::Drift(text.to_owned())];
    }
    if seen.partitions == 0 {
        return vec![TopicFinding::Missing];
    }
    let mut findings = Vec::new();
    let mut drift = |text: String| findings.push(TopicFinding::Drift(text));
    if seen.partitions != spec.partitions as usize {
        drift(format!(
            "{} partitions, configured are {}; left alone, since another number moves keys",
            seen.partitions, spec.partitions
        ));
    }
    if spec
        .replication_factor
        .is_some_and(|r| seen.replicas != r as usize)
    {
        drift(format!(
            "{} replicas, configured are {}",
            seen.replicas,
            spec.replication_factor.unwrap_or_default()
        ));
    }
    let settings = seen.settings.as_ref();
    let wanted = spec.retention.map_or(-1, |r| r.as_millis() as i64);
    let retention = settings.and_then(|s| s.retention);
    if let Some(actual) = retention.filter(|&actual| actual != wanted) {
        drift(format!("retention.ms={actual}, configured is {wanted}"));
    }
    let in_sync = settings.and_then(|s| s.min_insync_replicas);
    if let (Some(actual), Some(wanted)) = (in_sync, spec.min_insync_replicas)
        && actual != i64::from(wanted)
    {
        drift(format!(
            "min.insync.replicas={actual}, configured is {wanted}"
        ));
    }

    let policy = settings.and_then(|s| s.cleanup_policy.as_deref());
    if let Some(other) = policy.filter(|&p| p != "delete") {
        drift(format!("cleanup.policy={other}, needed is delete"));
    }
    let stamps = settings.and_then(|s| s.timestamp_type.as_deref());
    if let Some(other) = stamps.filter(|&t| t != "CreateTime") {
        drift(format!(
            "message.timestamp.type={other}, needed is CreateTime"
        ));
    }

    let mut danger = |text: String| findings.push(TopicFinding::Danger(text));
    if seen.replicas == 1 {
        danger(
            "one replica: the loss of one broker loses events that were answered 200".to_owned(),
        );
    } else if in_sync.is_some_and(|n| n < 2) {
        danger(
            "min.insync.replicas below 2: a 200 can rest on one broker alone; set 2 with 3 replicas"
                .to_owned(),
        );
    }
    if seen.replicas > 1 && in_sync.is_some_and(|n| n >= seen.replicas as i64) {
        danger(format!(
            "min.insync.replicas={} with {} replicas: one broker down and nothing can be stored",
            in_sync.unwrap_or_default(),
            seen.replicas
        ));
    }
    if settings.and_then(|s| s.unclean_leader_election) == Some(true) {
        danger(
            "unclean.leader.election.enable=true: a replica that lags can become leader, and events answered 200 are lost"
                .to_owned(),
        );
    }
    if policy.is_some_and(|p| p.contains("compact")) {
        danger("cleanup.policy=compact keeps only the last event of each space".to_owned());
    }
    if stamps == Some("LogAppendTime") {
        danger("message.timestamp.type=LogAppendTime replaces the time of sensing".to_owned());
    }
    let max_past = limits.max_past.as_millis() as i64;
    if retention.is_some_and(|r| (0..=max_past).contains(&r)) {
        danger(format!(
            "retention.ms={} is not above kafka.max_past: late events go with the cleaner's next run",
            retention.unwrap_or_default()
        ));
    }
    let need = (limits.max_event_bytes + RECORD_OVERHEAD) as i64;
    let takes = settings.and_then(|s| s.max_message_bytes);
    if let Some(takes) = takes.filter(|&takes| takes < need) {
        danger(format!(
            "max.message.bytes={takes} is too small for http.max_event_bytes with headers ({need}): the largest events are answered 413"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const LIMITS: InspectionLimits = InspectionLimits {
        max_past: Duration::from_secs(3 * DAY),
        max_event_bytes: 256 * 1024,
    };

    fn spec() -> TopicSpec {
        TopicSpec {
            name: "t".into(),
            partitions: 6,
            replication_factor: Some(3),
            min_insync_replicas: Some(2),
            retention: Some(Duration::from_secs(7 * DAY)),
        }
    }

    fn good() -> ObservedTopic {
        ObservedTopic {
            partitions: 6,
            replicas: 3,
            forbidden: false,
            settings: Some(TopicSettings {
                cleanup_policy: Some("delete".into()),
                timestamp_type: Some("CreateTime".into()),
                retention: Some(7 * 86_400_000),
                min_insync_replicas: Some(2),
                max_message_bytes: Some(1_048_588),
                unclean_leader_election: Some(false),
            }),
        }
    }

    #[test]
    fn a_topic_as_configured_has_no_findings() {
        assert_eq!(evaluate_topic(&spec(), &good(), &LIMITS), []);
        assert_eq!(
            evaluate_topic(&spec(), &ObservedTopic::default(), &LIMITS),
            [TopicFinding::Missing]
        );
    }

    #[test]
    fn each_danger_is_named() {
        type TopicChange = fn(&mut ObservedTopic);
        fn settings(seen: &mut ObservedTopic) -> &mut TopicSettings {
            seen.settings.as_mut().unwrap()
        }
        let cases: [(TopicChange, &str); 9] = [
            (
                |s| settings(s).unclean_leader_election = Some(true),
                "unclean",
            ),
            (
                |s| settings(s).min_insync_replicas = Some(3),
                "one broker down",
            ),
            (
                |s| settings(s).cleanup_policy = Some("compact,delete".into()),
                "compact",
            ),
            (
                |s| settings(s).timestamp_type = Some("LogAppendTime".into()),
                "LogAppendTime",
            ),
            (|s| settings(s).retention = Some(3 * 86_400_000), "max_past"),
            (
                |s| settings(s).min_insync_replicas = Some(1),
                "min.insync.replicas",
            ),
            (
                |s| settings(s).max_message_bytes = Some(200_000),
                "max.message.bytes",
            ),
            (|s| s.replicas = 1, "one replica"),
            (|s| s.partitions = 12, "12 partitions"),
        ];
        for (change, text) in cases {
            let mut seen = good();
            change(&mut seen);
            let findings = evaluate_topic(&spec(), &seen, &LIMITS);
            assert!(
                findings.iter().any(|f| f.to_string().contains(text)),
                "{text}: {findings:?}"
            );
        }
        let mut forever = good();
        settings(&mut forever).retention = Some(-1);
        let findings = evaluate_topic(&spec(), &forever, &LIMITS);
        assert!(
            !findings
                .iter()
                .any(|f| matches!(f, TopicFinding::Danger(_)))
        );
    }

    #[test]
    fn a_warning_that_holds_for_all_topics_comes_once() {
        let topic = |name: &str, findings| TopicReport {
            topic: name.into(),
            partitions: 1,
            findings,
        };
        let danger = |text: &str| TopicFinding::Danger(text.to_owned());
        let report = TopicInspection {
            topics: vec![
                topic("a", vec![danger("x"), danger("y")]),
                topic("b", vec![danger("x")]),
            ],
            unreadable: None,
        };
        let warnings: Vec<_> = report.warnings().collect();
        assert_eq!(warnings, ["all 2 topics: x", "topic a: y"]);
        assert!(!report.has_drifted());
    }
}
