// SPDX-License-Identifier: Apache-2.0

//! What is removed: a plain function of what there is, what is needed, and the bounds.

use std::time::Duration;

use slipway_artifact::StoredArtifact;
use slipway_proto::Timestamp;
use slipway_proto::api::RemovalReason;
use slipway_queue::references::References;
use slipway_queue::retention::Bounds;

/// How long an upload may take between its record and its bytes, at the very most.
const UPLOADED_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Something that may be removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) bytes: u64,
    /// When it was last used; `None` if nobody has it any more.
    pub(super) used_at: Option<Timestamp>,
    /// Whether it stays, whatever the bounds say.
    pub(super) is_needed: bool,
}

impl Item {
    /// Returns what is to be decided about an artifact. It is needed by an unfinished build or a
    /// dead letter, or waits for its build: it was uploaded or asked for within the grace, and no
    /// build of it was accepted since.
    pub(super) fn of_artifact(
        artifact: &StoredArtifact,
        references: &References,
        grace: Duration,
        now: Timestamp,
    ) -> Self {
        let used_at = artifact.used_at();
        let waits = used_at.is_some_and(|used_at| {
            let was_built =
                references.submitted_at(artifact.digest).is_some_and(|at| at >= used_at);
            // A record without bytes may be that of an upload that places them now.
            let grace = if artifact.size_bytes == 0 { grace.max(UPLOADED_WITHIN) } else { grace };
            !was_built && !is_older(used_at, grace, now)
        });
        let is_needed = waits || references.needs(artifact.digest);
        Self { bytes: artifact.size_bytes, used_at, is_needed }
    }
}

/// Returns the places of what is to be removed, with the reasons, the least recently used first.
pub(super) fn choose(
    items: &[Item],
    bounds: Bounds,
    now: Timestamp,
) -> Vec<(usize, RemovalReason)> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|place| items[*place].used_at);
    let mut bytes: u64 = items.iter().map(|item| item.bytes).sum();
    let mut chosen = Vec::new();
    for place in order {
        let item = &items[place];
        let reason = match item.used_at {
            _ if item.is_needed => continue,
            None => RemovalReason::Deleted,
            Some(used_at) if is_older(used_at, bounds.age, now) => RemovalReason::Age,
            Some(_) if bytes > bounds.bytes => RemovalReason::Size,
            Some(_) => continue,
        };
        bytes -= item.bytes;
        chosen.push((place, reason));
    }
    chosen
}

/// Returns whether more than `age` has passed. A time in the future, by a clock that disagrees, is
/// now.
pub(super) fn is_older(time: Timestamp, age: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(time)).is_ok_and(|is| is > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { age: Duration::from_secs(100), bytes: 25 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn item(used_at: i64) -> Item {
        Item { bytes: 10, used_at: Some(at(used_at)), is_needed: false }
    }

    #[test]
    fn nothing_is_removed_within_the_bounds() {
        assert!(choose(&[item(900), item(950)], BOUNDS, at(1000)).is_empty());
        assert!(choose(&[item(2000)], BOUNDS, at(1000)).is_empty(), "a clock that is ahead");
    }

    #[test]
    fn the_least_recently_used_go_until_the_bound_is_kept() {
        let items = [item(990), item(970), item(980), item(960)];
        let chosen = choose(&items, BOUNDS, at(1000));
        assert_eq!(chosen, [(3, RemovalReason::Size), (1, RemovalReason::Size)]);
    }

    #[test]
    fn what_is_old_goes_also_within_the_bound_of_bytes() {
        assert_eq!(choose(&[item(899), item(950)], BOUNDS, at(1000)), [(0, RemovalReason::Age)]);
    }

    #[test]
    fn what_nobody_has_goes_first() {
        let nobodys = Item { used_at: None, ..item(0) };
        let chosen = choose(&[item(990), nobodys, item(970)], BOUNDS, at(1000));
        assert_eq!(chosen, [(1, RemovalReason::Deleted)], "it makes room for the others");
    }

    #[test]
    fn what_is_needed_stays_and_counts() {
        let needed = Item { is_needed: true, ..item(0) };
        let chosen = choose(&[needed, needed, item(990)], BOUNDS, at(1000));
        assert_eq!(chosen, [(2, RemovalReason::Size)]);
    }
}
