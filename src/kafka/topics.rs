//! Comparison of the topics that the bridge needs with those of the broker. Missing topics can be
//! created; nothing else is changed.

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

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Finding about one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFinding {
    /// The topic does not exist.
    Missing,
    /// The topic differs from the configuration.
    Drift(String),
    /// The topic works but puts the bridge's promise at risk.
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

/// One topic and the findings about it.
#[derive(Clone, Debug)]
pub struct TopicReport {
    /// Name of the topic.
    pub topic: String,
    /// Number of partitions; 0 if the topic is missing.
    pub partitions: usize,
    /// Findings; empty if all is well.
    pub findings: Vec<TopicFinding>,
}

/// Findings about all topics.
#[derive(Clone, Debug)]
pub struct TopicInspection {
    /// One entry per topic: the event types in their order, then the quarantine.
    pub topics: Vec<TopicReport>,
    /// Reason if the settings of the topics could not be read.
    pub unreadable: Option<String>,
}

impl TopicInspection {
    /// Returns `true` if a topic is missing or differs from the configuration.
    pub fn has_drifted(&self) -> bool {
        let mut findings = self.topics.iter().flat_map(|t| &t.findings);
        findings.any(|f| !matches!(f, TopicFinding::Danger(_)))
    }

    /// Returns `true` if a topic does not exist.
    pub fn has_missing(&self) -> bool {
        let mut findings = self.topics.iter().flat_map(|t| &t.findings);
        findings.any(|f| *f == TopicFinding::Missing)
    }

    /// Returns the dangers, one sentence each. Topics with the same danger share a sentence.
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
                "the settings of the topics cannot be read ({reason}), so the bridge cannot check whether events answered 200 are safe; grant DescribeConfigs"
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

/// Error of inspecting or creating topics.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Admin client that is closed on its own thread: librdkafka waits for its threads, one of which
/// may be waiting for a name server.
#[derive(Clone)]
struct TopicAdmin(Option<Arc<AdminClient<DefaultClientContext>>>);

impl TopicAdmin {
    fn new(config: &Config) -> Result<Self, Error> {
        let bootstrap = config
            .require_bootstrap_servers()
            .map_err(|e| Error(e.to_string()))?;
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

/// Compares the topics with the configuration, without changing or creating any. Fails if Kafka
/// cannot be reached.
pub async fn inspect(config: &Config) -> Result<TopicInspection, Error> {
    let admin = TopicAdmin::new(config)?;
    let names: Vec<String> = config.required_topics().map(|t| t.name.clone()).collect();
    // A plain thread: the call can take long, and a runtime waits for its own threads at the end.
    let (done, fetched) = oneshot::channel();
    std::thread::spawn({
        let (admin, names) = (admin.clone(), names.clone());
        move || {
            let topics = names.iter().map(|name| fetch_topic(&admin, name));
            let _ = done.send(topics.collect::<Result<Vec<ObservedTopic>, Error>>());
        }
    });
    let mut observed = fetched
        .await
        .unwrap_or_else(|_| Err(Error("the inspection of the topics was aborted".to_owned())))?;

    let present = names
        .iter()
        .zip(&observed)
        .filter(|(_, t)| t.partitions > 0);
    let resources: Vec<_> = present
        .map(|(name, _)| ResourceSpecifier::Topic(name))
        .collect();
    let mut unreadable = None;
    if !resources.is_empty() {
        match admin.describe_configs(&resources, &admin_options()).await {
            Err(error) => unreadable = Some(error.to_string()),
            Ok(described) => {
                let mut described = described.into_iter();
                for topic in observed.iter_mut().filter(|t| t.partitions > 0) {
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
    let topics = config.required_topics().zip(observed);
    let topics = topics.map(|(spec, observed)| TopicReport {
        topic: spec.name.clone(),
        partitions: observed.partitions,
        findings: evaluate_topic(spec, &observed, &limits),
    });
    Ok(TopicInspection {
        topics: topics.collect(),
        unreadable,
    })
}

/// Creates the missing topics and returns a result for each; never changes an existing one. Fails
/// if Kafka cannot be reached.
pub async fn create_missing(
    config: &Config,
    report: &TopicInspection,
) -> Result<Vec<(String, Result<(), String>)>, Error> {
    let all = config.required_topics().zip(&report.topics);
    let missing: Vec<_> = all
        .filter(|(_, topic)| topic.findings.contains(&TopicFinding::Missing))
        .map(|(spec, _)| (spec, creation_settings(spec)))
        .collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let new_topics: Vec<_> = missing
        .iter()
        .map(|(spec, settings)| {
            // -1 requests the broker's default (KIP-464).
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

/// Broker settings of one topic; `None` where the broker does not report one.
#[derive(Debug, Default)]
struct TopicSettings {
    cleanup_policy: Option<String>,
    timestamp_type: Option<String>,
    /// Milliseconds; -1 means forever.
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
    observed: &ObservedTopic,
    limits: &InspectionLimits,
) -> Vec<TopicFinding> {
    if observed.forbidden {
        let text = "the bridge's user is not allowed to see it; grant Describe and Write";
        return vec![TopicFinding::Drift(text.to_owned())];
    }
    if observed.partitions == 0 {
        return vec![TopicFinding::Missing];
    }
    let mut findings = Vec::new();
    let mut drift = |text: String| findings.push(TopicFinding::Drift(text));
    if observed.partitions != spec.partitions as usize {
        drift(format!(
            "{} partitions, {} configured; not changed, because that would move keys to other partitions",
            observed.partitions, spec.partitions
        ));
    }
    if spec
        .replication_factor
        .is_some_and(|r| observed.replicas != r as usize)
    {
        drift(format!(
            "{} replicas, {} configured",
            observed.replicas,
            spec.replication_factor.unwrap_or_default()
        ));
    }
    let settings = observed.settings.as_ref();
    let wanted = spec.retention.map_or(-1, |r| r.as_millis() as i64);
    let retention = settings.and_then(|s| s.retention);
    if let Some(actual) = retention.filter(|&actual| actual != wanted) {
        drift(format!("retention.ms={actual}, {wanted} configured"));
    }
    let in_sync = settings.and_then(|s| s.min_insync_replicas);
    if let (Some(actual), Some(wanted)) = (in_sync, spec.min_insync_replicas)
        && actual != i64::from(wanted)
    {
        drift(format!("min.insync.replicas={actual}, {wanted} configured"));
    }

    let policy = settings.and_then(|s| s.cleanup_policy.as_deref());
    if let Some(other) = policy.filter(|&p| p != "delete") {
        drift(format!("cleanup.policy={other}, delete required"));
    }
    let stamps = settings.and_then(|s| s.timestamp_type.as_deref());
    if let Some(other) = stamps.filter(|&t| t != "CreateTime") {
        drift(format!(
            "message.timestamp.type={other}, CreateTime required"
        ));
    }

    let mut danger = |text: String| findings.push(TopicFinding::Danger(text));
    if observed.replicas == 1 {
        danger("one replica: losing a broker loses events that were answered 200".to_owned());
    } else if in_sync.is_some_and(|n| n < 2) {
        danger(
            "min.insync.replicas below 2: an event answered 200 may be on one broker only; use 2 with 3 replicas"
                .to_owned(),
        );
    }
    if observed.replicas > 1 && in_sync.is_some_and(|n| n >= observed.replicas as i64) {
        danger(format!(
            "min.insync.replicas={} with {} replicas: with one broker down, nothing can be stored",
            in_sync.unwrap_or_default(),
            observed.replicas
        ));
    }
    if settings.and_then(|s| s.unclean_leader_election) == Some(true) {
        danger(
            "unclean.leader.election.enable=true: a lagging replica can become leader, which loses events that were answered 200"
                .to_owned(),
        );
    }
    if policy.is_some_and(|p| p.contains("compact")) {
        danger("cleanup.policy=compact keeps only the last event of each space".to_owned());
    }
    if stamps == Some("LogAppendTime") {
        danger("message.timestamp.type=LogAppendTime replaces the event's time".to_owned());
    }
    let max_past = limits.max_past.as_millis() as i64;
    if retention.is_some_and(|r| (0..=max_past).contains(&r)) {
        danger(format!(
            "retention.ms={} is not above kafka.max_past: late events are deleted by the cleaner's next run",
            retention.unwrap_or_default()
        ));
    }
    let required = (limits.max_event_bytes + RECORD_OVERHEAD) as i64;
    let max_bytes = settings.and_then(|s| s.max_message_bytes);
    if let Some(actual) = max_bytes.filter(|&actual| actual < required) {
        danger(format!(
            "max.message.bytes={actual} is too small for http.max_event_bytes with headers ({required}): the largest events are answered 413"
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
        fn settings(topic: &mut ObservedTopic) -> &mut TopicSettings {
            topic.settings.as_mut().unwrap()
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
            let mut topic = good();
            change(&mut topic);
            let findings = evaluate_topic(&spec(), &topic, &LIMITS);
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
    fn topics_with_the_same_danger_share_a_warning() {
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
