//! The response to one request, and the outcome of a delivery.

use crate::journal::RecordedOutcome;

/// Response to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerResponse {
    /// HTTP status.
    pub status: u16,
    /// Outcome of the event as the body of a 2xx reports it.
    pub outcome: Option<ReportedOutcome>,
    /// Partition and offset, if the body has both.
    pub position: Option<(i32, i64)>,
}

impl ServerResponse {
    /// Returns `true` if the sender counts the response as a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Outcome to record in the journal. A response without a reported outcome comes from something
    /// other than the bridge, such as a proxy, and is judged by its status.
    pub(crate) fn recorded_outcome(&self) -> RecordedOutcome {
        match (self.outcome, self.status) {
            (Some(ReportedOutcome::Published), _) | (None, 200 | 201 | 203..300) => {
                RecordedOutcome::Published
            }
            (Some(ReportedOutcome::Spooled), _) | (None, 202) => RecordedOutcome::Spooled,
            (Some(ReportedOutcome::Redelivery), _) => RecordedOutcome::Redelivery,
            (Some(ReportedOutcome::Repeat), _) => RecordedOutcome::Repeat,
            (Some(ReportedOutcome::Quarantined), _) => RecordedOutcome::Quarantined,
            // Too slow, too early, too many, hung up: sent before the event was examined, or by an
            // intermediary.
            (None, 408 | 425 | 429 | 499) => RecordedOutcome::Unknown,
            (None, 400..500) => RecordedOutcome::Refused,
            (None, _) => RecordedOutcome::Unknown,
        }
    }

    /// Returns `true` if the status does not belong to the reported outcome.
    pub(crate) fn is_contradictory(&self) -> bool {
        match self.outcome {
            None => false,
            Some(ReportedOutcome::Published) => self.status != 200,
            Some(ReportedOutcome::Spooled | ReportedOutcome::Quarantined) => self.status != 202,
            Some(ReportedOutcome::Redelivery | ReportedOutcome::Repeat) => {
                !matches!(self.status, 200 | 202)
            }
        }
    }
}

/// Outcome of an event as the bridge reports it in a 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedOutcome {
    /// The event is in Kafka.
    Published,
    /// The event is in the bridge's spool.
    Spooled,
    /// The same event was published before.
    Redelivery,
    /// Another event with the same reading and value was published before.
    Repeat,
    /// The item is not a valid event and was quarantined.
    Quarantined,
}

impl ReportedOutcome {
    /// All outcomes, in the column order of the ledger.
    pub const ALL: [ReportedOutcome; 5] = [
        ReportedOutcome::Published,
        ReportedOutcome::Spooled,
        ReportedOutcome::Redelivery,
        ReportedOutcome::Repeat,
        ReportedOutcome::Quarantined,
    ];

    /// Name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            ReportedOutcome::Published => "published",
            ReportedOutcome::Spooled => "spooled",
            ReportedOutcome::Redelivery => "redelivery",
            ReportedOutcome::Repeat => "repeat",
            ReportedOutcome::Quarantined => "quarantined",
        }
    }
}

/// Final outcome of a delivery; each has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Answered with a 2xx.
    Accepted,
    /// Dropped after a last try that was answered with a 4xx.
    Refused,
    /// Dropped after a last try with another response or none, or before any try because no
    /// connection became free in time.
    Dropped,
    /// Dropped without a try because the run had to end.
    Unsent,
}

impl SendOutcome {
    /// All outcomes, in the column order of the ledger.
    pub const ALL: [SendOutcome; 4] = [
        SendOutcome::Accepted,
        SendOutcome::Refused,
        SendOutcome::Dropped,
        SendOutcome::Unsent,
    ];

    /// Name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            SendOutcome::Accepted => "accepted",
            SendOutcome::Refused => "refused",
            SendOutcome::Dropped => "dropped",
            SendOutcome::Unsent => "unsent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, outcome: Option<ReportedOutcome>) -> ServerResponse {
        ServerResponse {
            status,
            outcome,
            position: None,
        }
    }

    #[test]
    fn each_reported_outcome_has_its_status() {
        let contradictory = |status, outcome| response(status, outcome).is_contradictory();
        for (outcome, at_200, at_202) in [
            (ReportedOutcome::Published, false, true),
            (ReportedOutcome::Spooled, true, false),
            (ReportedOutcome::Quarantined, true, false),
            (ReportedOutcome::Redelivery, false, false),
            (ReportedOutcome::Repeat, false, false),
        ] {
            assert_eq!(contradictory(200, Some(outcome)), at_200, "{outcome:?}");
            assert_eq!(contradictory(202, Some(outcome)), at_202, "{outcome:?}");
            assert!(contradictory(207, Some(outcome)), "{outcome:?}");
        }
        assert!(!contradictory(204, None));
    }

    #[test]
    fn only_a_final_4xx_is_a_refusal() {
        let recorded = |status, outcome| response(status, outcome).recorded_outcome();
        for status in [400, 401, 413, 422] {
            assert_eq!(recorded(status, None), RecordedOutcome::Refused, "{status}");
        }
        for status in [408, 425, 429, 499, 500, 503] {
            assert_eq!(recorded(status, None), RecordedOutcome::Unknown, "{status}");
        }
        let quarantined = recorded(202, Some(ReportedOutcome::Quarantined));
        assert_eq!(quarantined, RecordedOutcome::Quarantined);
        assert_eq!(recorded(202, None), RecordedOutcome::Spooled);
    }
}
