//! `[topics]`: one topic for each type of event.

use super::kafka::Kafka;
use super::reader::Reader;
use super::value::show_duration;
use super::written::within;
use butlr_event::EventType;
use butlr_event::destination::Destination;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The topics, one for each type of event.
#[derive(Clone, Debug)]
pub struct Topics {
    /// What names are made of; `{type}` stands for the type in kebab case. Default `butlr.event.{type}.v1`.
    pub template: String,
    /// The topic of each type, by [`EventType::index`].
    pub per_type: [TopicSpec; EventType::ALL.len()],
    /// The topic of what is no valid event. Default `butlr.quarantine.v1`, kept 30 d.
    pub quarantine: TopicSpec,
}

impl Topics {
    /// The topic for events of this type.
    pub fn topic(&self, event_type: EventType) -> &TopicSpec {
        &self.per_type[event_type.index()]
    }

    /// The topic for this.
    pub fn of(&self, destination: Destination) -> &TopicSpec {
        match destination {
            Destination::Events(event_type) => self.topic(event_type),
            Destination::Quarantine => &self.quarantine,
        }
    }

    /// The ten topics' names, in the order of [`EventType::ALL`].
    pub fn names(&self) -> [String; 10] {
        EventType::ALL.map(|event_type| self.topic(event_type).name.clone())
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
const TYPE: &str = "{type}";
/// Kafka's own limit, which leaves room for the suffixes of its directories.
const MAX_NAME: usize = 249;
/// A broker keeps replicas' counts in 16 bits.
const REPLICAS: RangeInclusive<i64> = 1..=i16::MAX as i64;
const RETENTION: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(36_500 * 86_400);
const HAS_DEFAULT: &str = "the table of keys has a default for it";

pub(super) fn read(section: &Reader<'_>) -> Topics {
    let template = section
        .read("template", |written| template(written.text()?))
        .expect(HAS_DEFAULT);
    let partitions = section
        .integer("partitions", 1..=10_000)
        .expect(HAS_DEFAULT);
    let replication_factor = section.integer("replication_factor", REPLICAS);
    let min_insync_replicas = section.integer("min_insync_replicas", REPLICAS);
    let retention = read_retention(section, "retention").expect(HAS_DEFAULT);
    let types = section.section("types");
    let per_type = EventType::ALL.map(|event_type| {
        let over = types.section(event_type.name());
        TopicSpec {
            name: over
                .read("name", |written| name(written.text()?))
                .unwrap_or_else(|| named(&template, event_type)),
            partitions: over.integer("partitions", 1..=10_000).unwrap_or(partitions),
            replication_factor: over
                .integer("replication_factor", REPLICAS)
                .or(replication_factor),
            min_insync_replicas: over
                .integer("min_insync_replicas", REPLICAS)
                .or(min_insync_replicas),
            retention: read_retention(&over, "retention").unwrap_or(retention),
        }
    });
    let quarantine = TopicSpec {
        name: section
            .read("quarantine", |written| name(written.text()?))
            .expect(HAS_DEFAULT),
        partitions,
        replication_factor,
        min_insync_replicas,
        retention: read_retention(section, "quarantine_retention").expect(HAS_DEFAULT),
    };
    Topics {
        template,
        per_type,
        quarantine,
    }
}

fn named(template: &str, event_type: EventType) -> String {
    template.replace(TYPE, event_type.kebab())
}

fn template(text: &str) -> Result<String, String> {
    if text.matches(TYPE).count() != 1 {
        return Err(format!(
            "{text:?} must contain {TYPE} once, as in butlr.event.{TYPE}.v1"
        ));
    }
    EventType::ALL
        .iter()
        .try_for_each(|event_type| name(&named(text, *event_type)).map(drop))?;
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty()
        || text == "."
        || text == ".."
        || text.len() > MAX_NAME
        || !text.bytes().all(legal)
    {
        return Err(format!(
            "{text:?} is not the name of a topic; allowed are 1 to {MAX_NAME} letters, \
             digits, dots, underscores and hyphens"
        ));
    }
    Ok(text.to_owned())
}

/// `Some(None)` is forever.
fn read_retention(section: &Reader<'_>, key: &str) -> Option<Option<Duration>> {
    section.read(key, |written| match written.text() {
        Ok("forever") => Ok(None),
        _ => within(written.duration()?, &RETENTION)
            .map(Some)
            .map_err(|problem| format!("{problem}, or forever")),
    })
}

/// The rules between the keys of this section, and with `kafka.max_past`.
pub(super) fn check(topics: &Topics, kafka: &Kafka, root: &Reader<'_>) {
    let section = root.section("topics");
    check_names(topics, &section);
    let replicas_sound = root.sound(&["topics.replication_factor", "topics.min_insync_replicas"]);
    let past_sound = root.sound(&["kafka.max_past"]);
    for event_type in EventType::ALL {
        let spec = topics.topic(event_type);
        let over = section.section("types").section(event_type.name());
        // What all types inherit is told once, at its own key; the list of mistakes drops repetitions.
        let at = |names: &[&str]| names.iter().any(|name| over.given(name));
        let own_replicas = at(&["replication_factor", "min_insync_replicas"]);
        let own_retention = at(&["retention"]);
        let own_sound = root.sound(&[over.key()]);
        if replicas_sound && own_sound {
            check_replicas(spec, if own_replicas { &over } else { &section });
        }
        if past_sound && own_sound {
            check_retention(spec, kafka, if own_retention { &over } else { &section });
        }
    }
}

fn check_names(topics: &Topics, section: &Reader<'_>) {
    let mut owners: BTreeMap<String, EventType> = BTreeMap::new();
    for event_type in EventType::ALL {
        let name = &topics.topic(event_type).name;
        // Kafka's metrics cannot tell dots from underscores, so a broker refuses two names that differ in them only.
        if let Some(other) = owners.insert(name.replace('.', "_"), event_type) {
            let types = section.section("types");
            // The template never makes two types' names equal: one of the two has a name of its own.
            let owner = if types.section(event_type.name()).given("name") {
                event_type
            } else {
                other
            };
            types.section(owner.name()).mistake(
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
        section.mistake(
            "quarantine",
            format!(
                "{} would share the topic {quarantine:?} (dots and underscores count as the same); allowed: a topic of its own",
                event_type.name()
            ),
        );
    }
}

fn check_replicas(spec: &TopicSpec, section: &Reader<'_>) {
    if let (Some(all), Some(least)) = (spec.replication_factor, spec.min_insync_replicas)
        && least > all
    {
        section.mistake(
            "min_insync_replicas",
            format!(
                "{least} is more than replication_factor ({all}), so nothing could ever be \
                 stored; allowed: up to that"
            ),
        );
    }
}

fn check_retention(spec: &TopicSpec, kafka: &Kafka, section: &Reader<'_>) {
    if let Some(retention) = spec.retention
        && retention <= kafka.max_past
    {
        let [retention, past] = [retention, kafka.max_past].map(show_duration);
        section.mistake(
            "retention",
            format!(
                "{retention} is not more than kafka.max_past ({past}): Kafka counts from a \
                 record's timestamp, which may lie that far back, so such a record would go \
                 with the cleaner's next run; allowed: more than kafka.max_past, or forever"
            ),
        );
    }
}
