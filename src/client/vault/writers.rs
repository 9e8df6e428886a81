//! The heads of all who write into a vault. Each writer numbers its heads and names in each the one before, so that what
//! is missing between two of them can be told by whoever opens them, also of hosts whose chains are elsewhere. What is
//! missing behind the newest cannot: that only the host itself knows ([`super::chain`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::listed::Dropped;
use crate::base::ids::SnapshotId;

/// The id of a writer.
type Writer = [u8; 16];

/// Where a head stands in its writer's chain.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub snapshot: SnapshotId,
    /// Of the sealed head.
    pub hash: [u8; 32],
    /// The hash of the one before.
    pub previous: [u8; 32],
}

/// By writer and number.
#[derive(Debug, Default)]
pub struct Writers(BTreeMap<Writer, BTreeMap<u64, Place>>);

/// Snapshots of one writer that are gone, and were not dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    pub count: u64,
    /// The last one before them that is there.
    pub after: Option<SnapshotId>,
    pub before: SnapshotId,
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { count, after, before } = self;
        let (what, are, them) = if *count == 1 { ("snapshot", "is", "it") } else { ("snapshots", "are", "them") };
        match after {
            Some(after) => write!(formatter, "between {after} and {before}, {count} {what} of one host {are} gone"),
            None => write!(formatter, "before {before}, {count} {what} of the same host {are} gone"),
        }?;
        write!(formatter, ", and the server does not say that it dropped {them}")
    }
}

impl Writers {
    /// Adds a head. Two of one writer with one number, or one that does not follow the one before it, were not stored so:
    /// then what is wrong.
    pub fn add(&mut self, writer: Writer, number: u64, place: Place) -> Option<String> {
        let heads = self.0.entry(writer).or_default();
        let before = number.checked_sub(1).and_then(|before| heads.get(&before));
        let after = heads.get(&number.saturating_add(1));
        let does_not_follow = before.is_some_and(|before| before.hash != place.previous)
            || after.is_some_and(|after| after.previous != place.hash);
        match heads.insert(number, place) {
            Some(other) => Some(format!("its head has the number {number}, as that of {} has", other.snapshot)),
            None => does_not_follow.then(|| "its head does not follow the one before it".to_string()),
        }
    }

    /// Number and snapshot of a writer's newest head.
    pub fn newest(&self, writer: Writer) -> Option<(u64, SnapshotId)> {
        let (number, place) = self.0.get(&writer)?.last_key_value()?;
        Some((*number, place.snapshot))
    }

    /// What is missing before and between the heads of each writer, and is neither dropped in that time nor among the
    /// `unopened`, whose numbers are not known. What `own` has from the number on is compared with its chain.
    pub fn gaps(&self, dropped: &Dropped, unopened: &BTreeSet<SnapshotId>, own: Option<(Writer, u64)>) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (writer, heads) in &self.0 {
            let known_from = own.filter(|(own, _)| own == writer).map_or(u64::MAX, |(_, number)| number);
            let mut last: (u64, Option<SnapshotId>) = (0, None);
            for (number, place) in heads {
                let missing = (*number).min(known_from).saturating_sub(last.0.saturating_add(1));
                let gap = Gap { count: missing, after: last.1, before: place.snapshot };
                gaps.extend(gap.unaccounted(dropped, unopened));
                last = (*number, Some(place.snapshot));
            }
        }
        gaps
    }
}

impl Gap {
    /// The gap without what may have been dropped in that time; none where that is all of it. The ids of one second are
    /// in no order, so whole seconds count.
    fn unaccounted(self, dropped: &Dropped, unopened: &BTreeSet<SnapshotId>) -> Option<Gap> {
        let (from, to) = match &self.after {
            Some(after) => (after.begun().min(self.before.begun()), after.begun().max(self.before.begun())),
            None => ("", self.before.begun()),
        };
        if dropped.before.is_some_and(|before| before.begun() >= from) {
            return None;
        }
        let within = |id: &&SnapshotId| (from..=to).contains(&id.begun());
        let accounted = dropped.ids.iter().filter(within).count() + unopened.iter().filter(within).count();
        let count = self.count.saturating_sub(accounted as u64);
        (count > 0).then_some(Gap { count, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Writer = [1; 16];

    fn id(second: u8) -> SnapshotId {
        format!("20260131T2359{second:02}Z-00c0ffee").parse().unwrap()
    }

    fn place(second: u8) -> Place {
        Place { snapshot: id(second), hash: [second; 32], previous: [second - 1; 32] }
    }

    fn writers(numbers: &[u8]) -> Writers {
        let mut writers = Writers::default();
        for number in numbers {
            writers.add(ONE, (*number).into(), place(*number));
        }
        writers
    }

    fn dropped(numbers: &[u8]) -> Dropped {
        Dropped { before: None, ids: numbers.iter().map(|number| id(*number)).collect() }
    }

    #[test]
    fn heads_follow_each_other_in_whatever_order_they_come() {
        let mut writers = writers(&[3, 1, 2]);
        assert_eq!(writers.newest(ONE), Some((3, id(3))));
        let told = writers.add(ONE, 4, Place { previous: [9; 32], ..place(4) });
        assert!(told.unwrap().contains("does not follow"));
        assert!(writers.add(ONE, 2, place(2)).unwrap().contains("has the number 2"));
        assert_eq!(writers.add([2; 16], 2, place(2)), None, "another writer counts by itself");
        assert_eq!(writers.add(ONE, u64::MAX, place(9)), None);
    }

    #[test]
    fn what_is_missing_is_told_unless_it_was_dropped() {
        let none = BTreeSet::new();
        let gap = |count, after: Option<u8>, before| Gap { count, after: after.map(id), before: id(before) };
        assert_eq!(writers(&[1, 2, 3]).gaps(&Dropped::default(), &none, None), []);
        let holed = writers(&[3, 4, 8]);
        let gaps = holed.gaps(&Dropped::default(), &none, None);
        assert_eq!(gaps, [gap(2, None, 3), gap(3, Some(4), 8)]);
        assert!(gaps[1].to_string().contains(
            "between 20260131T235904Z-00c0ffee and 20260131T235908Z-00c0ffee, 3 snapshots of one host are gone"
        ));
        assert_eq!(holed.gaps(&dropped(&[1, 2, 5, 6]), &none, None), [gap(1, Some(4), 8)]);
        assert_eq!(holed.gaps(&dropped(&[1, 2, 5, 6, 7]), &none, None), []);
        assert_eq!(holed.gaps(&dropped(&[1, 2, 10, 11, 12]), &none, None), [gap(3, Some(4), 8)]);
        // One whose head cannot be opened is there, and has been told of.
        assert_eq!(holed.gaps(&dropped(&[1, 2, 5]), &[id(6), id(7)].into(), None), []);
        // The server does not remember all that it dropped up to there.
        let unsure = Dropped { before: Some(id(3)), ids: BTreeSet::new() };
        assert_eq!(holed.gaps(&unsure, &none, None), [gap(3, Some(4), 8)]);
        let unsure = Dropped { before: Some(id(4)), ids: BTreeSet::new() };
        assert_eq!(holed.gaps(&unsure, &none, None), []);
        // What this host's own chain has is compared with that.
        assert_eq!(holed.gaps(&Dropped::default(), &none, Some((ONE, 6))), [gap(2, None, 3), gap(1, Some(4), 8)]);
        assert_eq!(holed.gaps(&Dropped::default(), &none, Some((ONE, 1))), []);
        assert_eq!(holed.gaps(&Dropped::default(), &none, Some(([2; 16], 1))).len(), 2);
    }
}
