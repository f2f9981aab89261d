//! `[topics]`: one topic for each type of event.

use super::kafka::KafkaConfig;
use super::reader::SectionReader;
use super::units::format_duration;
use super::written_value::check_bounds;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The topics, one for each type of event.
#[derive(Clone, Debug)]
pub struct TopicsConfig {
    /// What names are made of; `{type}` stands for the type in kebab case. Default `butlr.event.{type}.v1`.
    pub template: String,
    /// The topic of each type, by [`EventType::index`].
    pub per_type: [TopicSpec; EventType::ALL.len()],
    /// The topic of what is no valid event. Default `butlr.quarantine.v1`, kept 30 d.
    pub quarantine: TopicSpec,
}

impl TopicsConfig {
    /// The topic for events of this type.
    pub fn for_type(&self, event_type: EventType) -> &TopicSpec {
        &self.per_type[event_type.index()]
    }

    /// The topic for this.
    pub fn for_destination(&self, destination: Destination) -> &TopicSpec {
        match destination {
            Destination::Events(event_type) => self.for_type(event_type),
            Destination::Quarantine => &self.quarantine,
        }
    }

    /// The ten topics' names, in the order of [`EventType::ALL`].
    pub fn names(&self) -> [String; 10] {
        EventType::ALL.map(|event_type| self.for_type(event_type).name.clone())
    }
}

/// What a topic is called and how it is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its partitions: 1 to 10,000. Default 6.
    pub partitions: i32,
    /// Replicas of a partition; `None` leaves it to the broker.
    pub replication_factor: Option<i32>,
    /// Replicas that must have a record before it counts as stored; `None` leaves it to the broker.
    pub min_insync_replicas: Option<i32>,
    /// How long records are kept; `None` is forever. Default 7 d.
    pub retention: Option<Duration>,
}

/// What stands for the type in a template.
const TYPE_PLACEHOLDER: &str = "{type}";
/// Kafka's own limit, which leaves room for the suffixes of its directories.
const MAX_TOPIC_NAME_BYTES: usize = 249;
/// A broker keeps replicas' counts in 16 bits.
const REPLICAS: RangeInclusive<i64> = 1..=i16::MAX as i64;
const RETENTION: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(36_500 * 86_400);
const HAS_DEFAULT: &str = "the table of keys has a default for it";

pub(super) fn read(section: &SectionReader<'_>) -> TopicsConfig {
    let template = section
        .read("template", |written| parse_template(written.text()?))
        .expect(HAS_DEFAULT);
    let partitions = section
        .integer("partitions", 1..=10_000)
        .expect(HAS_DEFAULT);
    let replication_factor = section.integer("replication_factor", REPLICAS);
    let min_insync_replicas = section.integer("min_insync_replicas", REPLICAS);
    let retention = read_retention(section, "retention").expect(HAS_DEFAULT);
    let types = section.section("types");
    let per_type = EventType::ALL.map(|event_type| {
        let overrides = types.section(event_type.name());
        TopicSpec {
            name: overrides
                .read("name", |written| parse_topic_name(written.text()?))
                .unwrap_or_else(|| topic_name(&template, event_type)),
            partitions: overrides
                .integer("partitions", 1..=10_000)
                .unwrap_or(partitions),
            replication_factor: overrides
                .integer("replication_factor", REPLICAS)
                .or(replication_factor),
            min_insync_replicas: overrides
                .integer("min_insync_replicas", REPLICAS)
                .or(min_insync_replicas),
            retention: read_retention(&overrides, "retention").unwrap_or(retention),
        }
    });
    let quarantine = TopicSpec {
        name: section
            .read("quarantine", |written| parse_topic_name(written.text()?))
            .expect(HAS_DEFAULT),
        partitions,
        replication_factor,
        min_insync_replicas,
        retention: read_retention(section, "quarantine_retention").expect(HAS_DEFAULT),
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
    EventType::ALL
        .iter()
        .try_for_each(|event_type| parse_topic_name(&topic_name(text, *event_type)).map(drop))?;
    Ok(text.to_owned())
}

fn parse_topic_name(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty()
        || text == "."
        || text == ".."
        || text.len() > MAX_TOPIC_NAME_BYTES
        || !text.bytes().all(legal)
    {
        return Err(format!(
            "{text:?} is not the name of a topic; allowed are 1 to {MAX_TOPIC_NAME_BYTES} letters, \
             digits, dots, underscores and hyphens"
        ));
    }
    Ok(text.to_owned())
}

/// `Some(None)` is forever.
fn read_retention(section: &SectionReader<'_>, key: &str) -> Option<Option<Duration>> {
    section.read(key, |written| match written.text() {
        Ok("forever") => Ok(None),
        _ => check_bounds(written.parse_duration()?, &RETENTION)
            .map(Some)
            .map_err(|problem| format!("{problem}, or forever")),
    })
}

/// The rules between the keys of this section, and with `kafka.max_past`.
pub(super) fn check(topics: &TopicsConfig, kafka: &KafkaConfig, root: &SectionReader<'_>) {
    let section = root.section("topics");
    check_names(topics, &section);
    let replicas_valid =
        root.is_valid(&["topics.replication_factor", "topics.min_insync_replicas"]);
    let max_past_valid = root.is_valid(&["kafka.max_past"]);
    for event_type in EventType::ALL {
        let spec = topics.for_type(event_type);
        let overrides = section.section("types").section(event_type.name());
        // What all types inherit is told once, at its own key; the list of mistakes drops repetitions.
        let is_overridden = |names: &[&str]| names.iter().any(|name| overrides.is_set(name));
        let own_replicas = is_overridden(&["replication_factor", "min_insync_replicas"]);
        let own_retention = is_overridden(&["retention"]);
        let own_valid = root.is_valid(&[overrides.key()]);
        if replicas_valid && own_valid {
            check_replicas(spec, if own_replicas { &overrides } else { &section });
        }
        if max_past_valid && own_valid {
            check_retention(
                spec,
                kafka,
                if own_retention { &overrides } else { &section },
            );
        }
    }
}

fn check_names(topics: &TopicsConfig, section: &SectionReader<'_>) {
    let mut owners: BTreeMap<String, EventType> = BTreeMap::new();
    for event_type in EventType::ALL {
        let name = &topics.for_type(event_type).name;
        // Kafka's metrics cannot tell dots from underscores, so a broker refuses two names that differ in them only.
        if let Some(other) = owners.insert(name.replace('.', "_"), event_type) {
            let types = section.section("types");
            // The template never makes two types' names equal: one of the two has a name of its own.
            let owner = if types.section(event_type.name()).is_set("name") {
                event_type
            } else {
                other
            };
            types.section(owner.name()).report_error(
                "name",
                format!(
                    "{} and {} would share the topic {name:?} (dots and underscores count as the \
                     same); allowed: a topic of its own",
                    other.name(),
                    event_type.name()
                ),
            );
        }
    }
    let quarantine = &topics.quarantine.name;
    if let Some(event_type) = owners.get(&quarantine.replace('.', "_")) {
        section.report_error(
            "quarantine",
            format!(
                "{} would share the topic {quarantine:?} (dots and underscores count as the same); allowed: a topic of its own",
                event_type.name()
            ),
        );
    }
}

fn check_replicas(spec: &TopicSpec, section: &SectionReader<'_>) {
    if let (Some(all), Some(least)) = (spec.replication_factor, spec.min_insync_replicas)
        && least > all
    {
        section.report_error(
            "min_insync_replicas",
            format!(
                "{least} is more than replication_factor ({all}), so nothing could ever be \
                 stored; allowed: up to that"
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
                "{retention} is not more than kafka.max_past ({past}): Kafka counts from a \
                 record's timestamp, which may lie that far back, so such a record would go \
                 with the cleaner's next run; allowed: more than kafka.max_past, or forever"
            ),
        );
    }
}
