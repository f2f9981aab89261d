//! Suggestions for misspelled names: "did you mean …?"

/// Returns the candidate that was probably meant: the nearest, if at most a third of the characters
/// differ.
pub(super) fn find_nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let written = written.to_ascii_lowercase();
    let max_distance = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::osa_distance(&written, &candidate.to_ascii_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= max_distance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["bind", "workers", "max_events", "max_event_bytes"];
        assert_eq!(find_nearest("binds", known), Some("bind"));
        assert_eq!(find_nearest("bnid", known), Some("bind"));
        assert_eq!(find_nearest("Max_Evnts", known), Some("max_events"));
        assert_eq!(find_nearest("maxEvents", known), Some("max_events"));
        assert_eq!(find_nearest("password", known), None);
        assert_eq!(find_nearest("x", known), None);
    }
}
