//! "Did you mean …?"

/// The candidate nearest to what was written, if one is near enough to have been meant.
pub(super) fn find_nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let written = written.to_ascii_lowercase();
    let bound = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                edit_distance(&written, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be inserted, deleted, replaced or swapped with their neighbour to make one text the other
/// (optimal string alignment).
fn edit_distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // Three rows of the table suffice: a swap looks two rows back.
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, &a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let mut best = (last[j] + usize::from(a != b))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("bind", "bind"), 0);
        assert_eq!(edit_distance("bnid", "bind"), 1);
        assert_eq!(edit_distance("max_evnts", "max_events"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["bind", "workers", "max_events", "max_event_bytes"];
        assert_eq!(find_nearest("binds", known), Some("bind"));
        assert_eq!(find_nearest("Max_Evnts", known), Some("max_events"));
        assert_eq!(find_nearest("maxEvents", known), Some("max_events"));
        assert_eq!(find_nearest("password", known), None);
        assert_eq!(find_nearest("x", known), None);
    }
}
