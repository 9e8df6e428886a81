//! Which snapshots are kept: rules, applied to the heads of a client. Nothing here touches the disk.
//!
//! Times are the server's, when a snapshot was committed; hours, days, ISO weeks, months and years are those of UTC.
//! The order is that of the sequence numbers. Rules are applied to each set of roots by itself, and the newest
//! snapshot of each is always kept. The roots of a vault's snapshot are sealed: what stands for them tells the sets apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::head::Head;
use crate::base::ids::SnapshotId;
use crate::base::path::EntryPath;
use crate::base::time::Timestamp;
use crate::base::vault::{RootSetId, VaultId};

/// What rules keep beside what they say, unless they say otherwise: a client that floods the store cannot push
/// out what was there before.
pub const DEFAULT_WITHIN: Span = Span { seconds: 7 * 86_400 };

/// A length of time: `12h`, `7d`, `2w`, `1y` (365 days), or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    pub seconds: i64,
}

const UNITS: [(char, i64); 4] = [('y', 365 * 86_400), ('w', 7 * 86_400), ('d', 86_400), ('h', 3_600)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || "a length of time is a number and h, d, w or y: 7d".to_string();
        if text == "0" {
            return Ok(Span { seconds: 0 });
        }
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let count: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
        Ok(Span { seconds: i64::from(count) * seconds })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, seconds)| self.seconds > 0 && self.seconds % seconds == 0) {
            Some((name, seconds)) => write!(formatter, "{}{name}", self.seconds / seconds),
            None => write!(formatter, "0"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Span, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

/// What to keep. A snapshot that one rule keeps is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    pub keep_last: u32,
    pub keep_hourly: u32,
    pub keep_daily: u32,
    pub keep_weekly: u32,
    pub keep_monthly: u32,
    pub keep_yearly: u32,
    /// [`DEFAULT_WITHIN`] for none, which `keep_last` alone does not allow.
    pub keep_within: Option<Span>,
    pub keep_tag: Vec<String>,
}

impl Rules {
    /// # Errors
    /// What is wrong with them, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if *self == Rules::default() {
            return Err("no rule says what to keep: give one, as --keep-daily 7".to_string());
        }
        if self.keep_last > 0 && self.keep_within.is_none() {
            return Err(
                "--keep-last without --keep-within lets a client that floods push good snapshots out: add \
                        --keep-within 7d, or --keep-within 0 to say that this is meant"
                    .to_string(),
            );
        }
        Ok(())
    }

    fn within(&self) -> Span {
        self.keep_within.unwrap_or(DEFAULT_WITHIN)
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The newest of its roots.
    Newest,
    Held,
    Last,
    /// `hour`, `day` and so on: the how-manieth that has a snapshot.
    Period(&'static str, u32),
    Within(Span),
    Tag(String),
    /// The clock is behind the newest snapshot: rules about time wait.
    Clock,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Newest => write!(formatter, "the newest of its roots"),
            Reason::Held => write!(formatter, "held"),
            Reason::Last => write!(formatter, "one of the last"),
            Reason::Period(period, number) => write!(formatter, "{period} {number}"),
            Reason::Within(span) => write!(formatter, "within {span}"),
            Reason::Tag(tag) => write!(formatter, "tag {}", tag.escape_debug()),
            Reason::Clock => write!(formatter, "the clock is behind the newest snapshot"),
        }
    }
}

/// What becomes of one snapshot; without a reason to keep it, it is dropped.
#[derive(Debug, Clone)]
pub struct Decision {
    pub head: Arc<Head>,
    pub reasons: Vec<Reason>,
}

/// What the rules say about each of a client's snapshots (by sequence, as they come), and whether the clock can be
/// trusted.
pub fn decide(
    heads: &[Arc<Head>],
    held: &BTreeSet<SnapshotId>,
    now: Timestamp,
    rules: &Rules,
) -> (Vec<Decision>, bool) {
    let clock_is_behind = heads.last().is_some_and(|head| head.committed > now);
    let mut sets: BTreeMap<RootSet<'_>, Vec<usize>> = BTreeMap::new();
    for (place, head) in heads.iter().enumerate() {
        sets.entry(root_set(head)).or_default().push(place);
    }
    let mut decisions: Vec<Decision> =
        heads.iter().map(|head| Decision { head: head.clone(), reasons: Vec::new() }).collect();
    for places in sets.values() {
        let mut periods = Periods::new(rules);
        for (age, place) in places.iter().rev().enumerate() {
            let Decision { head, reasons } = &mut decisions[*place];
            if age == 0 {
                reasons.push(Reason::Newest);
            }
            if held.contains(&head.id) {
                reasons.push(Reason::Held);
            }
            if age < rules.keep_last as usize {
                reasons.push(Reason::Last);
            }
            periods.add(head.committed, reasons);
            let within = rules.within();
            if within.seconds > 0 && now.seconds.saturating_sub(head.committed.seconds) <= within.seconds {
                reasons.push(Reason::Within(within));
            }
            reasons.extend(head.tags.iter().filter(|tag| rules.keep_tag.contains(tag)).cloned().map(Reason::Tag));
            if clock_is_behind && reasons.is_empty() {
                reasons.push(Reason::Clock);
            }
        }
    }
    (decisions, clock_is_behind)
}

/// The roots of a snapshot; of one in a vault, which names none, what stands for them.
type RootSet<'a> = (&'a [EntryPath], Option<(VaultId, RootSetId)>);

fn root_set(head: &Head) -> RootSet<'_> {
    (&head.roots, head.vault.map(|place| (place.vault, place.set)))
}

/// The periods that are still to be given a snapshot, newest first.
struct Periods {
    /// Name, how many are wanted, how many have one, the one that had one last.
    kinds: [(&'static str, u32, u32, Option<i64>); 5],
}

impl Periods {
    fn new(rules: &Rules) -> Periods {
        let kind = |name, wanted| (name, wanted, 0, None);
        Periods {
            kinds: [
                kind("hour", rules.keep_hourly),
                kind("day", rules.keep_daily),
                kind("week", rules.keep_weekly),
                kind("month", rules.keep_monthly),
                kind("year", rules.keep_yearly),
            ],
        }
    }

    /// Keeps the newest snapshot of each period.
    fn add(&mut self, committed: Timestamp, reasons: &mut Vec<Reason>) {
        let hours = committed.seconds.div_euclid(3_600);
        let days = committed.seconds.div_euclid(86_400);
        let (year, month) = committed.year_and_month();
        // 1970 began on a Thursday; weeks begin on Mondays.
        let numbers = [hours, days, (days + 3).div_euclid(7), year * 12 + month, year];
        for ((name, wanted, given, last), number) in self.kinds.iter_mut().zip(numbers) {
            if given < wanted && *last != Some(number) {
                *given += 1;
                *last = Some(number);
                reasons.push(Reason::Period(name, *given));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ClientId, UploadId};
    use crate::base::vault::ChunkName;
    use crate::storage::head::{InVault, SnapshotTotals};
    use proptest::prelude::*;

    const DAY: i64 = 86_400;
    /// 2026-07-01T12:00:00Z, a Wednesday.
    const NOW: Timestamp = Timestamp { seconds: 1_782_907_200, nanoseconds: 0 };

    fn head(sequence: u64, seconds: i64, root: &str, tags: &[&str]) -> Arc<Head> {
        let committed = Timestamp { seconds, nanoseconds: 0 };
        Arc::new(Head {
            sequence,
            id: SnapshotId::create(committed),
            client: ClientId::NONE,
            upload: UploadId::NONE,
            parent: None,
            started: committed,
            committed,
            roots: vec![EntryPath::parse(root.as_bytes()).unwrap()],
            label: String::new(),
            host: String::new(),
            tags: tags.iter().map(|tag| tag.to_string()).collect(),
            unauthenticated: false,
            totals: SnapshotTotals::default(),
            index_blake3: [0; 32],
            vault: None,
        })
    }

    /// One in a vault: it names no roots.
    fn sealed_head(sequence: u64, seconds: i64, vault: u8, set: u8) -> Arc<Head> {
        let place = InVault {
            vault: VaultId::from_bytes([vault; 16]),
            object: ChunkName::from_bytes([sequence as u8; 32]),
            set: RootSetId::from_bytes([set; 16]),
        };
        let open = Arc::unwrap_or_clone(head(sequence, seconds, "a", &[]));
        Arc::new(Head { roots: Vec::new(), vault: Some(place), ..open })
    }

    /// One snapshot every `step` seconds up to now.
    fn every(step: i64, count: u64) -> Vec<Arc<Head>> {
        (0..count).map(|n| head(n + 1, NOW.seconds - step * (count - 1 - n) as i64, "a", &[])).collect()
    }

    fn kept(heads: &[Arc<Head>], rules: &Rules) -> Vec<u64> {
        let decisions = decide(heads, &BTreeSet::new(), NOW, rules).0;
        decisions.iter().filter(|found| !found.reasons.is_empty()).map(|found| found.head.sequence).collect()
    }

    fn exact(rules: Rules) -> Rules {
        Rules { keep_within: Some(Span { seconds: 0 }), ..rules }
    }

    #[test]
    fn the_last_snapshot_of_each_period_is_kept() {
        let hourly = every(3_600, 24 * 10);
        let rules = exact(Rules { keep_daily: 3, ..Rules::default() });
        // Noon is the last hour of today; 23:00 that of yesterday.
        assert_eq!(kept(&hourly, &rules), [240 - 13 - 24, 240 - 13, 240]);
        let rules = exact(Rules { keep_hourly: 2, keep_weekly: 2, ..Rules::default() });
        // The week before ended on Sunday, 23:00.
        assert_eq!(kept(&hourly, &rules), [240 - 13 - 48, 239, 240]);
        let daily = every(DAY, 500);
        let rules = exact(Rules { keep_monthly: 2, keep_yearly: 2, ..Rules::default() });
        assert_eq!(kept(&daily, &rules), [500 - 182, 499, 500], "New Year's Eve, the last of June, today");
    }

    #[test]
    fn rules_keep_seven_days_unless_told_otherwise() {
        let hourly = every(3_600, 24 * 30);
        let rules = Rules { keep_daily: 10, ..Rules::default() };
        assert_eq!(kept(&hourly, &rules).len(), 7 * 24 + 1 + 2);
        let none = exact(Rules { keep_last: 5, ..Rules::default() });
        assert_eq!(kept(&hourly, &none), [716, 717, 718, 719, 720]);
    }

    #[test]
    fn a_flood_pushes_nothing_out_that_the_last_seven_days_have() {
        let mut heads: Vec<Arc<Head>> = every(DAY, 30);
        let flood = (0..1_000).map(|n| head(31 + n, NOW.seconds, "a", &[]));
        heads.extend(flood);
        let rules = Rules { keep_hourly: 24, keep_daily: 7, ..Rules::default() };
        let kept = kept(&heads, &rules);
        assert!((23..=30).all(|sequence| kept.contains(&sequence)), "{kept:?}");
    }

    #[test]
    fn keep_last_alone_and_no_rule_at_all_are_refused() {
        let problem = Rules { keep_last: 3, ..Rules::default() }.check().unwrap_err();
        assert!(problem.contains("--keep-within 7d") && problem.contains("--keep-within 0"), "{problem}");
        assert!(Rules::default().check().is_err());
        exact(Rules { keep_last: 3, ..Rules::default() }).check().unwrap();
        Rules { keep_tag: vec!["x".into()], ..Rules::default() }.check().unwrap();
    }

    #[test]
    fn held_and_tagged_ones_stay_and_each_set_of_roots_has_its_own_newest() {
        let old = NOW.seconds - 100 * DAY;
        let heads = [
            head(1, old, "a", &["keep"]),
            head(2, old + 1, "a", &[]),
            head(3, old + 2, "b", &[]),
            head(4, old + 3, "a", &[]),
            head(5, old + 4, "a", &[]),
        ];
        let held = BTreeSet::from([heads[1].id]);
        let rules = exact(Rules { keep_tag: vec!["keep".into()], ..Rules::default() });
        let decisions = decide(&heads, &held, NOW, &rules).0;
        let reasons: Vec<_> = decisions.into_iter().map(|decision| decision.reasons).collect();
        let newest = vec![Reason::Newest];
        let expected = [vec![Reason::Tag("keep".into())], vec![Reason::Held], newest.clone(), vec![], newest];
        assert_eq!(reasons, expected);
    }

    #[test]
    fn what_stands_for_sealed_roots_tells_the_sets_apart() {
        let old = NOW.seconds - 100 * DAY;
        let whole_system = Head { roots: Vec::new(), ..Arc::unwrap_or_clone(head(1, old, "a", &[])) };
        let heads = [
            Arc::new(whole_system),
            sealed_head(2, old + 1, 1, 1),
            sealed_head(3, old + 2, 1, 1),
            sealed_head(4, old + 3, 1, 2),
            sealed_head(5, old + 4, 2, 1),
            sealed_head(6, old + 5, 1, 2),
        ];
        assert_eq!(kept(&heads, &exact(Rules { keep_daily: 7, ..Rules::default() })), [1, 3, 5, 6]);
    }

    #[test]
    fn a_clock_behind_the_newest_snapshot_drops_nothing() {
        let mut heads = every(DAY, 100);
        heads.push(head(101, NOW.seconds + 1, "a", &[]));
        let (decisions, behind) =
            decide(&heads, &BTreeSet::new(), NOW, &exact(Rules { keep_daily: 1, ..Rules::default() }));
        assert!(behind && decisions.iter().all(|decision| !decision.reasons.is_empty()));
    }

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("0", 0), ("12h", 43_200), ("7d", 7 * DAY), ("2y", 730 * DAY)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.seconds, seconds);
        }
        assert_eq!(DEFAULT_WITHIN.to_string(), "1w");
        for bad in ["", "7", "d", "-1d", "7 d", "7m", "7é"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_rule_keeps_less_when_another_is_added(
            times in prop::collection::vec(0i64..400 * DAY, 1..80),
            counts in any::<[u8; 6]>(),
            more in 0usize..6,
        ) {
            let mut times = times;
            times.sort();
            let heads: Vec<_> = times.iter().enumerate().map(|(n, ago)| {
                head(n as u64 + 1, NOW.seconds - 400 * DAY + ago, if n % 3 == 0 { "b" } else { "a" }, &[])
            }).collect();
            let rules = |counts: [u8; 6]| {
                let [last, hourly, daily, weekly, monthly, yearly] = counts.map(|count| u32::from(count % 12));
                exact(Rules { keep_last: last, keep_hourly: hourly, keep_daily: daily, keep_weekly: weekly,
                    keep_monthly: monthly, keep_yearly: yearly, ..Rules::default() })
            };
            let few = kept(&heads, &rules(counts));
            let mut grown = counts;
            grown[more] = grown[more].wrapping_add(1);
            let many = kept(&heads, &rules(grown));
            if grown[more] % 12 > counts[more] % 12 {
                prop_assert!(few.iter().all(|sequence| many.contains(sequence)));
            }
            // Pruning again changes nothing.
            let left: Vec<_> = heads.iter().filter(|head| few.contains(&head.sequence)).cloned().collect();
            prop_assert_eq!(kept(&left, &rules(counts)), few);
        }
    }
}
