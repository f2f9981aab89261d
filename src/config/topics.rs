//! `[topics]`: one topic per event type, and the quarantine's.

use super::kafka::KafkaConfig;
use super::reader::SectionReader;
use super::units::format_duration;
use super::written_value::WrittenValue;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use std::collections::BTreeMap;
use std::time::Duration;

/// The topics: one per event type, and the quarantine's.
#[derive(Clone, Debug)]
pub struct TopicsConfig {
    /// Pattern of the names; `{type}` stands for the event type in kebab case.
    pub template: String,
    /// Topic of each event type, by [`EventType::index`].
    pub per_type: [TopicSpec; EventType::ALL.len()],
    /// Topic of rejected items.
    pub quarantine: TopicSpec,
}

impl TopicsConfig {
    /// Returns the topic of this event type.
    pub fn for_type(&self, event_type: EventType) -> &TopicSpec {
        &self.per_type[event_type.index()]
    }

    /// Returns the topic of this destination.
    pub fn for_destination(&self, destination: Destination) -> &TopicSpec {
        match destination {
            Destination::Events(event_type) => self.for_type(event_type),
            Destination::Quarantine => &self.quarantine,
        }
    }

    /// Returns the names of the event types' topics, in the order of [`EventType::ALL`].
    pub fn names(&self) -> [String; EventType::ALL.len()] {
        EventType::ALL.map(|event_type| self.for_type(event_type).name.clone())
    }
}

/// Name and settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name, unique among all topics.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas of a partition; `None` leaves it to the broker.
    pub replication_factor: Option<i32>,
    /// Number of replicas that must have a record before Kafka confirms it; `None` leaves it to the
    /// broker.
    pub min_insync_replicas: Option<i32>,
    /// Time for which records are kept; `None` is forever.
    pub retention: Option<Duration>,
}

/// Placeholder for the event type in a template.
const TYPE_PLACEHOLDER: &str = "{type}";
/// Kafka's own limit, which leaves room for the suffixes of its directories.
const MAX_TOPIC_NAME_BYTES: usize = 249;

pub(super) fn read(section: &SectionReader<'_>) -> TopicsConfig {
    let template = section.read("template", |written| parse_template(written.text()?));
    let common = TopicSpec {
        name: section.read("quarantine", |written| parse_topic_name(written.text()?)),
        partitions: section.integer("partitions"),
        replication_factor: section.optional_integer("replication_factor"),
        min_insync_replicas: section.optional_integer("min_insync_replicas"),
        retention: section.read("retention", |written| parse_retention(section, &written)),
    };
    let types = section.section("types");
    let per_type = EventType::ALL.map(|event_type| {
        let overrides = types.section(event_type.name());
        TopicSpec {
            name: overrides
                .read_optional("name", |written| parse_topic_name(written.text()?))
                .unwrap_or_else(|| topic_name(&template, event_type)),
            partitions: overrides
                .optional_integer("partitions")
                .unwrap_or(common.partitions),
            replication_factor: overrides
                .optional_integer("replication_factor")
                .or(common.replication_factor),
            min_insync_replicas: overrides
                .optional_integer("min_insync_replicas")
                .or(common.min_insync_replicas),
            retention: overrides
                .read_optional("retention", |written| parse_retention(section, &written))
                .unwrap_or(common.retention),
        }
    });
    let quarantine = TopicSpec {
        retention: section.read("quarantine_retention", |written| {
            parse_retention(section, &written)
        }),
        ..common
    };
    TopicsConfig {
        template,
        per_type,
        quarantine,
    }
}

fn topic_name(template: &str, event_type: EventType) -> String {
    template.replace(TYPE_PLACEHOLDER, event_type.kebab_name())
}

fn parse_template(text: &str) -> Result<String, String> {
    if text.matches(TYPE_PLACEHOLDER).count() != 1 {
        return Err(format!(
            "{text:?} must contain {TYPE_PLACEHOLDER} once, as in butlr.event.{TYPE_PLACEHOLDER}.v1"
        ));
    }
    for event_type in EventType::ALL {
        parse_topic_name(&topic_name(text, event_type))?;
    }
    Ok(text.to_owned())
}

fn parse_topic_name(text: &str) -> Result<String, String> {
    let is_legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty()
        || text == "."
        || text == ".."
        || text.len() > MAX_TOPIC_NAME_BYTES
        || !text.bytes().all(is_legal)
    {
        return Err(format!(
            "{text:?} is not a valid topic name; use 1 to {MAX_TOPIC_NAME_BYTES} letters, digits, \
             dots, underscores and hyphens"
        ));
    }
    Ok(text.to_owned())
}

/// Reads a retention; `None` is forever.
fn parse_retention(
    section: &SectionReader<'_>,
    written: &WrittenValue<'_>,
) -> Result<Option<Duration>, String> {
    if written.text() == Ok("forever") {
        return Ok(None);
    }
    written
        .parse_duration_within(section.duration_bounds("retention"))
        .map(Some)
        .map_err(|problem| format!("{problem}, or \"forever\""))
}

/// Checks the rules between the keys of this section, and with `kafka.max_past`.
pub(super) fn check(topics: &TopicsConfig, kafka: &KafkaConfig, root: &SectionReader<'_>) {
    let section = root.section("topics");
    check_names(topics, &section);
    let replicas_valid =
        root.is_valid(&["topics.replication_factor", "topics.min_insync_replicas"]);
    let max_past_valid = root.is_valid(&["kafka.max_past"]);
    for event_type in EventType::ALL {
        let spec = topics.for_type(event_type);
        let overrides = section.section("types").section(event_type.name());
        if !root.is_valid(&[overrides.key()]) {
            continue;
        }
        // An inherited value is reported at its own key; the list of errors drops the repetitions.
        let owner = |names: &[&str]| {
            let is_overridden = names.iter().any(|name| overrides.is_set(name));
            if is_overridden { &overrides } else { &section }
        };
        if replicas_valid {
            check_replicas(spec, owner(&["replication_factor", "min_insync_replicas"]));
        }
        if max_past_valid {
            check_retention(spec, kafka, owner(&["retention"]));
        }
    }
}

fn check_names(topics: &TopicsConfig, section: &SectionReader<'_>) {
    // In its metrics Kafka cannot tell dots from underscores, so a broker refuses a topic whose
    // name differs from another only in these.
    let normalize = |name: &str| name.replace('.', "_");
    let describe = |names: &str, topic: &str| {
        format!(
            "{names} would share the topic {topic:?} (dots and underscores count as the same); use \
             a topic of its own"
        )
    };
    let mut owners: BTreeMap<String, EventType> = BTreeMap::new();
    for event_type in EventType::ALL {
        let name = &topics.for_type(event_type).name;
        if let Some(other) = owners.insert(normalize(name), event_type) {
            let types = section.section("types");
            // Names from the template differ, so at least one of the two has a name of its own.
            let owner = if types.section(event_type.name()).is_set("name") {
                event_type
            } else {
                other
            };
            let both = format!("{} and {}", other.name(), event_type.name());
            types
                .section(owner.name())
                .report_error("name", describe(&both, name));
        }
    }
    let quarantine = &topics.quarantine.name;
    if let Some(event_type) = owners.get(&normalize(quarantine)) {
        let both = format!("{} and the quarantine", event_type.name());
        section.report_error("quarantine", describe(&both, quarantine));
    }
}

fn check_replicas(spec: &TopicSpec, section: &SectionReader<'_>) {
    if let (Some(all), Some(min)) = (spec.replication_factor, spec.min_insync_replicas)
        && min > all
    {
        section.report_error(
            "min_insync_replicas",
            format!(
                "{min} is more than replication_factor ({all}), so Kafka could never confirm a \
                 record; allowed: up to that"
            ),
        );
    }
}

fn check_retention(spec: &TopicSpec, kafka: &KafkaConfig, section: &SectionReader<'_>) {
    if let Some(retention) = spec.retention
        && retention <= kafka.max_past
    {
        let [retention, past] = [retention, kafka.max_past].map(format_duration);
        section.report_error(
            "retention",
            format!(
                "{retention} is not more than kafka.max_past ({past}): retention counts from a \
                 record's timestamp, so Kafka could delete such a record right away; allowed: more \
                 than kafka.max_past, or \"forever\""
            ),
        );
    }
}
