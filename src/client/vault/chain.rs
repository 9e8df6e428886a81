//! The chain of heads that this host has stored in a vault: each names the hash of the one before. The state folder keeps
//! the newest, so a server that was set back, or has lost or exchanged one of them, is found without reading anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::state::{StateError, StateFolder};
use super::listed::Listed;
use crate::base::ids::{ClientId, SnapshotId, hex, random_array, unhex};
use crate::base::limits::VAULT_CHAIN_MAX;
use crate::base::vault::VaultId;

const CHAIN_FILE: &str = "vault-chain.json";
const CHAIN_VERSION: u32 = 1;
/// What a damaged one becomes.
const SET_ASIDE_FILE: &str = "vault-chain.json.damaged";
/// Chains that are kept: one for each vault and server.
const CHAINS_MAX: usize = 64;
/// Room for all of them.
const CHAIN_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What `vault-chain.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct ChainFile {
    version: u32,
    /// Random, of this state folder.
    writer: String,
    /// The one that was used last comes last.
    chains: Vec<KeptChain>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeptChain {
    vault: VaultId,
    #[serde(flatten)]
    at: Holder,
    /// Who stored them, where that is not the folder's writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    /// The heads that were stored under other writers' ids, before `stored`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Link>,
    /// The heads that were stored, the oldest first; [`VAULT_CHAIN_MAX`] at most, those before counted.
    stored: Vec<Link>,
    /// A head that was sent, and whose answer has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Link>,
}

/// Who keeps a chain's snapshots: the server by its key, or, since that may be exchanged, by what it calls this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The fingerprint of the server's key.
    pub server: String,
    pub client: ClientId,
}

impl KeptChain {
    /// All heads that were stored, the oldest first.
    fn all(&self) -> impl DoubleEndedIterator<Item = &Link> {
        self.earlier.iter().chain(&self.stored)
    }
}

impl Holder {
    fn is(&self, other: &Holder) -> bool {
        self.server == other.server || self.client == other.client
    }
}

/// A head in a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub counter: u64,
    pub snapshot: SnapshotId,
    /// The hash of the sealed head, in hex.
    pub head: String,
}

/// The chain of one vault at one server.
#[derive(Debug)]
pub struct Chain {
    writer: [u8; 16],
    kept: KeptChain,
}

/// What a server shows as the newest head of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub snapshot: SnapshotId,
    /// The hash of the sealed head.
    pub head: [u8; 32],
}

/// What does not fit the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// So many, one behind the other in the chain, that the server neither shows nor says it dropped.
    Gone { first: SnapshotId, last: SnapshotId, count: usize },
    /// Shown with another head than was stored.
    OtherHead { snapshot: SnapshotId },
    /// The newest are not shown: the newest that is shown is an older one, or there is none. Whether the server says what
    /// it dropped is known to those only who may read the vault.
    SetBack { newest: SnapshotId, shown: Option<SnapshotId>, count: usize, drops_are_known: bool },
    /// A newer one than this state folder has stored.
    Unknown { snapshot: SnapshotId },
    /// Shown as the latest, which by this host's chain another one is.
    NotLatest { shown: SnapshotId, newest: SnapshotId },
    /// Shown as the latest, and not in the vault that this host stores into.
    Plain { shown: SnapshotId },
    /// The chain cannot be read.
    Unreadable { problem: String },
}

/// How what a server lists compares with the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    pub findings: Vec<Finding>,
    /// The snapshots that are gone, by time.
    pub gone: Vec<SnapshotId>,
    /// Those that the server says it dropped.
    pub dropped: Vec<SnapshotId>,
    /// Who stores the heads of this chain.
    pub writer: [u8; 16],
    /// What is shown as this host has stored it, the newest last; without one whose answer had not come when the chain was
    /// read: what the server gave as the latest before it listed them may be older.
    pub whole: Vec<SnapshotId>,
    /// The newest that this host has stored is gone or exchanged: what is shown as the latest may be another.
    pub is_newest_doubtful: bool,
}

impl Finding {
    /// The snapshot that it is about, where there is one.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Finding::Gone { last: snapshot, .. }
            | Finding::OtherHead { snapshot }
            | Finding::SetBack { newest: snapshot, .. }
            | Finding::NotLatest { shown: snapshot, .. }
            | Finding::Plain { shown: snapshot }
            | Finding::Unknown { snapshot } => Some(*snapshot),
            Finding::Unreadable { .. } => None,
        }
    }
}

impl Finding {
    /// What is wrong with that snapshot.
    pub fn reason(&self) -> String {
        match self {
            Finding::Gone { count: 1, .. } => {
                "it is gone: this host stored it, and the server does not say that it dropped it".to_string()
            }
            Finding::Gone { first, count, .. } => format!(
                "it and {} before it, from {first} on, are gone: this host stored them, and the server does not say that \
                 it dropped them",
                count - 1
            ),
            Finding::OtherHead { .. } => "its head is not the one that this host stored".to_string(),
            Finding::SetBack { newest, shown, count, drops_are_known } => {
                let shown = match shown {
                    None => "the server shows no snapshot of this host in the vault any more".to_string(),
                    Some(shown) => format!("the newest that the server shows is {shown}, older than {newest}"),
                };
                let before = if *count > 1 { format!(", and {} before it", count - 1) } else { String::new() };
                let why = match drops_are_known {
                    true => "the server does not say that it dropped it: it has lost it, or was set back",
                    false => "unless it was dropped on purpose, the server has lost it, or was set back",
                };
                format!("it was stored last by this host, and is gone{before}: {shown}; {why}")
            }
            Finding::Unknown { .. } => {
                "this state folder does not know of it: a copy of the folder is in use elsewhere, \
                                        or an older one was put back"
                    .to_string()
            }
            Finding::NotLatest { newest, .. } => {
                format!("the server shows it as the latest, and the newest that this host stored is {newest}")
            }
            Finding::Plain { .. } => {
                "the server shows it as the latest, and it is a plain one, which the server could \
                                      have made: this host stores into a vault"
                    .to_string()
            }
            Finding::Unreadable { problem } => {
                format!("whether the server shows all that this host stored cannot be said: {problem}")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.snapshot() {
            Some(snapshot) => write!(formatter, "snapshot {snapshot}: {}", self.reason()),
            None => formatter.write_str(&self.reason()),
        }
    }
}

/// All chains of a state folder, as it kept them when they were read.
#[derive(Debug)]
pub struct Chains {
    writer: [u8; 16],
    /// The one that was used last comes last.
    kept: Vec<KeptChain>,
}

impl Chains {
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn read(state: &StateFolder) -> Result<Chains, StateError> {
        let file = read(state)?;
        let writer = file.as_ref().and_then(|file| unhex(&file.writer)).unwrap_or_else(random_array);
        Ok(Chains { writer, kept: file.map(|file| file.chains).unwrap_or_default() })
    }

    /// The chain of a vault at this server; a new one where none is kept.
    pub fn of(&self, vault: VaultId, at: Holder) -> Chain {
        let kept = self.at(&at).find(|kept| kept.vault == vault).cloned();
        let new = || KeptChain {
            vault,
            at: at.clone(),
            writer: None,
            earlier: Vec::new(),
            stored: Vec::new(),
            sent: None,
        };
        let kept = KeptChain { at: at.clone(), ..kept.unwrap_or_else(new) };
        Chain { writer: kept.writer.as_deref().and_then(unhex).unwrap_or(self.writer), kept }
    }

    /// The vault that this host stored something in last at this server.
    pub fn vault_used_last(&self, at: &Holder) -> Option<VaultId> {
        self.at(at).find(|kept| kept.all().next().is_some()).map(|kept| kept.vault)
    }

    /// What is wrong where the newest that this host has stored in a vault at this server is not among its snapshots that the
    /// server shows, by id and vault. Whether it was dropped on purpose the server tells those only who may read the vault.
    pub fn newest_is_shown(&self, at: &Holder, shown: &[(SnapshotId, Option<VaultId>)]) -> Option<Finding> {
        let kept = self.at(at).find(|kept| kept.all().next().is_some())?;
        let as_what = |link: &Link| shown.iter().find(|(id, _)| *id == link.snapshot).map(|(_, vault)| *vault);
        let (count, newest_shown) = match kept.all().rev().enumerate().find(|(_, link)| as_what(link).is_some()) {
            Some((0, link)) if as_what(link) == Some(Some(kept.vault)) => return None,
            Some((0, link)) => return Some(Finding::OtherHead { snapshot: link.snapshot }),
            Some((count, link)) => (count, Some(link.snapshot)),
            None => (1, None),
        };
        let newest = kept.all().next_back()?.snapshot;
        Some(Finding::SetBack { newest, shown: newest_shown, count, drops_are_known: false })
    }

    /// Whether this host has stored the snapshot in a vault at this server.
    pub fn has_stored(&self, at: &Holder, snapshot: SnapshotId) -> bool {
        self.at(at).flat_map(KeptChain::all).any(|link| link.snapshot == snapshot)
    }

    /// Those at one server, the one that was used last first.
    fn at<'c>(&'c self, at: &'c Holder) -> impl Iterator<Item = &'c KeptChain> {
        self.kept.iter().rev().filter(move |kept| kept.at.is(at))
    }
}

impl Chain {
    /// The chain as the state folder keeps it now; a new one where it keeps none.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(state: &StateFolder, vault: VaultId, at: Holder) -> Result<Chain, StateError> {
        Ok(Chains::read(state)?.of(vault, at))
    }

    /// The chain as [`Chain::open`] gives it. Where the file is damaged a new chain begins, and if `is_real` the file is set
    /// aside: a backup that nobody watches goes on. Then the second is what is to be said.
    ///
    /// # Errors
    /// The file cannot be read, is a newer program's, or cannot be moved.
    pub fn open_or_begin(
        state: &StateFolder,
        vault: VaultId,
        at: Holder,
        is_real: bool,
    ) -> Result<(Chain, Option<String>), StateError> {
        match Chain::open(state, vault, at.clone()) {
            Err(error @ StateError::DamagedChain { .. }) => {
                if is_real {
                    state.set_aside(CHAIN_FILE, SET_ASIDE_FILE)?;
                }
                let told = format!("{error}; a backup keeps it as {SET_ASIDE_FILE} and begins a new one");
                let none = Chains { writer: random_array(), kept: Vec::new() };
                Ok((none.of(vault, at), Some(told)))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// Goes on under another writer's id, from number 1: the server has heads that were stored under the present one and
    /// are not known here, and no two heads of one writer may have one number. What is known stays known.
    pub fn begin_anew(&mut self) {
        self.writer = random_array();
        let KeptChain { writer, earlier, stored, sent, .. } = &mut self.kept;
        *writer = Some(hex(&self.writer));
        earlier.append(stored);
        *sent = None;
    }

    /// Who stores the heads of this chain.
    pub fn writer(&self) -> [u8; 16] {
        self.writer
    }

    /// Whether nothing is known to be stored, under any writer's id.
    pub fn is_empty(&self) -> bool {
        self.kept.all().next().is_none()
    }

    /// The heads that this writer is known to have stored, the oldest first.
    pub fn stored(&self) -> &[Link] {
        &self.kept.stored
    }

    /// The number of the newest head that was sent; 0 where none was.
    pub fn newest_number(&self) -> u64 {
        let newest = [self.kept.stored.last(), self.kept.sent.as_ref()].into_iter().flatten();
        newest.map(|link| link.counter).max().unwrap_or(0)
    }

    /// Counter and predecessor of the next head.
    pub fn next(&self) -> (u64, [u8; 32]) {
        let newest = self.kept.stored.last();
        let previous = newest.and_then(|link| unhex(&link.head)).unwrap_or_default();
        (newest.map_or(1, |link| link.counter.saturating_add(1)), previous)
    }

    /// Compares the newest head that the server shows with what is kept, and takes one over whose answer was lost.
    pub fn compare_newest(&mut self, shown: Option<Shown>) -> Option<Finding> {
        if let Some(shown) = shown {
            self.take_over_sent(|snapshot| (snapshot == shown.snapshot).then_some(shown.head));
        }
        let stored = self.kept.all().next_back()?;
        let is = |link: &Link, shown: Shown| link.snapshot == shown.snapshot && link.head == hex(&shown.head);
        let set_back = |shown: Option<Shown>, count| Finding::SetBack {
            newest: stored.snapshot,
            shown: shown.map(|shown| shown.snapshot),
            count,
            drops_are_known: false,
        };
        let Some(shown) = shown else { return Some(set_back(None, 1)) };
        let behind = self.kept.all().rev().enumerate().find(|(_, link)| link.snapshot == shown.snapshot);
        match behind {
            _ if is(stored, shown) => None,
            Some((behind, link)) if is(link, shown) => Some(set_back(Some(shown), behind)),
            Some(_) => Some(Finding::OtherHead { snapshot: shown.snapshot }),
            // The ids of one second are in no order.
            None if shown.snapshot.begun() < stored.snapshot.begun() => Some(set_back(Some(shown), 1)),
            None => Some(Finding::Unknown { snapshot: shown.snapshot }),
        }
    }

    /// Compares all that the server lists of the vault with what is kept.
    pub fn compare(&mut self, listed: &Listed) -> Compared {
        let taken_over = self.take_over_sent(|snapshot| listed.heads.get(&snapshot)?.hash.clone().ok());
        let mut compared = Compared { writer: self.writer, ..Compared::default() };
        let (mut missing, mut shown): (Vec<SnapshotId>, Option<SnapshotId>) = (Vec::new(), None);
        for Link { snapshot, head, .. } in self.kept.all() {
            match listed.heads.get(snapshot) {
                None if listed.dropped.accounts_for(*snapshot) => compared.dropped.push(*snapshot),
                None => missing.push(*snapshot),
                Some(listed) => {
                    compared.add_gone(&std::mem::take(&mut missing));
                    shown = Some(*snapshot);
                    // One that the server cannot give is told as damage by whoever asks for it.
                    match &listed.hash {
                        Ok(hash) if hex(hash) == *head => {
                            compared.whole.extend(Some(*snapshot).filter(|id| Some(*id) != taken_over));
                        }
                        Ok(_) => compared.findings.push(Finding::OtherHead { snapshot: *snapshot }),
                        Err(_) => {}
                    }
                }
            }
        }
        if let Some(newest) = missing.last().copied() {
            compared.gone.extend(&missing);
            let count = missing.len();
            compared.findings.push(Finding::SetBack { newest, shown, count, drops_are_known: true });
        }
        let newest = self.kept.all().next_back().map(|link| link.snapshot);
        compared.is_newest_doubtful = compared.findings.iter().any(|finding| match finding {
            Finding::SetBack { .. } => true,
            Finding::OtherHead { snapshot } => Some(*snapshot) == newest,
            _ => false,
        });
        compared
    }

    /// A head whose answer was lost is stored where the server shows it. `shown` gives the hash that a snapshot is shown
    /// with. Gives the snapshot that was taken over.
    fn take_over_sent(&mut self, shown: impl FnOnce(SnapshotId) -> Option<[u8; 32]>) -> Option<SnapshotId> {
        let sent = self.kept.sent.as_ref()?;
        if shown(sent.snapshot).is_none_or(|head| hex(&head) != sent.head) {
            return None;
        }
        let sent = sent.clone();
        let snapshot = sent.snapshot;
        self.take_over(sent);
        Some(snapshot)
    }

    /// A head goes to the server: kept before its answer can be lost.
    pub fn note_sent(&mut self, state: &StateFolder, link: Link) -> Result<(), StateError> {
        self.kept.sent = Some(link);
        self.write(state)
    }

    /// The head that was sent is stored.
    pub fn note_stored(&mut self, state: &StateFolder, snapshot: SnapshotId) -> Result<(), StateError> {
        if let Some(sent) = self.kept.sent.take_if(|sent| sent.snapshot == snapshot) {
            self.take_over(sent);
        }
        self.write(state)
    }

    fn take_over(&mut self, sent: Link) {
        self.kept.sent = None;
        let KeptChain { earlier, stored, .. } = &mut self.kept;
        stored.push(sent);
        let spare = (earlier.len() + stored.len()).saturating_sub(VAULT_CHAIN_MAX);
        earlier.drain(..spare.min(earlier.len()));
        let spare = stored.len().saturating_sub(VAULT_CHAIN_MAX);
        stored.drain(..spare);
    }

    fn write(&self, state: &StateFolder) -> Result<(), StateError> {
        let (writer, mut chains) = match read(state)? {
            Some(file) => (file.writer, file.chains),
            None => (hex(&self.writer), Vec::new()),
        };
        chains.retain(|kept| kept.vault != self.kept.vault || !kept.at.is(&self.kept.at));
        chains.push(self.kept.clone());
        let spare = chains.len().saturating_sub(CHAINS_MAX);
        chains.drain(..spare);
        state.write_json(CHAIN_FILE, &ChainFile { version: CHAIN_VERSION, writer, chains })
    }
}

impl Compared {
    /// Takes what makes the latest doubtful; once.
    pub fn doubt(&mut self, finding: Finding) {
        self.is_newest_doubtful = true;
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Takes snapshots that are missing before one that is there.
    fn add_gone(&mut self, missing: &[SnapshotId]) {
        if let [first, .., last] | [first @ last] = *missing {
            self.findings.push(Finding::Gone { first, last, count: missing.len() });
            self.gone.extend(missing);
        }
    }
}

fn read(state: &StateFolder) -> Result<Option<ChainFile>, StateError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |problem: String| StateError::DamagedChain { file: state.path().join(CHAIN_FILE), problem };
    let bytes = match state.read_long_file(CHAIN_FILE, CHAIN_FILE_BYTES_MAX) {
        Err(StateError::Damaged { problem, .. }) => return Err(damaged(problem)),
        read => read?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let found: Version = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match found.version {
        CHAIN_VERSION => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string())),
        0 => Err(damaged("version 0 is not known".to_string())),
        version => Err(StateError::NewerFile { file: state.path().join(CHAIN_FILE), version }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::ListedHead;
    use super::*;
    use crate::base::time::Timestamp;

    fn id(second: u8) -> SnapshotId {
        format!("20260131T2359{second:02}Z-00c0ffee").parse().unwrap()
    }

    fn link(counter: u64, head: u8) -> Link {
        Link { counter, snapshot: id(counter as u8), head: hex(&[head; 32]) }
    }

    fn holder(server: &str, client: u8) -> Holder {
        Holder { server: server.to_string(), client: ClientId::from_bytes([client; 16]) }
    }

    /// A state folder that has stored snapshots 1 to `count`, their heads with the hashes 1 to `count`.
    fn with_chain(count: u8) -> (tempfile::TempDir, StateFolder, Chain) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        let mut chain = Chain::open(&state, VaultId::from_bytes([1; 16]), holder("key", 1)).unwrap();
        for number in 1..=count {
            chain.note_sent(&state, link(number.into(), number)).unwrap();
            chain.note_stored(&state, id(number)).unwrap();
        }
        (folder, state, chain)
    }

    /// What a server lists: snapshots with the hashes of their heads, none for one that is damaged.
    fn listed(heads: &[(u8, Option<u8>)], dropped: &[u8]) -> Listed {
        let mut listed = Listed::default();
        for (number, hash) in heads {
            let hash = hash.map(|hash| [hash; 32]).ok_or_else(|| "damaged".to_string());
            listed.heads.insert(id(*number), ListedHead { committed: Timestamp::default(), hash });
        }
        listed.dropped.ids = dropped.iter().map(|number| id(*number)).collect();
        listed
    }

    #[test]
    fn a_chain_goes_on_and_a_newest_head_that_does_not_fit_it_is_told() {
        let (_folder, state, mut chain) = with_chain(0);
        assert_eq!((chain.next(), chain.compare_newest(None)), ((1, [0; 32]), None));
        chain.note_sent(&state, link(1, 1)).unwrap();
        chain.note_stored(&state, id(1)).unwrap();

        let open = |at: Holder| Chain::open(&state, VaultId::from_bytes([1; 16]), at).unwrap();
        let mut again = open(holder("key", 1));
        assert_eq!((again.writer(), again.next()), (chain.writer(), (2, [1; 32])));
        let shown = |number: u8, head: u8| Some(Shown { snapshot: id(number), head: [head; 32] });
        assert_eq!(again.compare_newest(shown(1, 1)), None);
        let mut told = |shown| again.compare_newest(shown).unwrap().to_string();
        assert!(told(None).contains("shows no snapshot of this host"));
        assert!(told(shown(0, 9)).contains("older than"));
        assert!(told(shown(1, 9)).contains("not the one that this host stored"));
        assert!(told(shown(2, 9)).contains("does not know of it"));
        assert!(told(shown(2, 1)).contains("does not know of it"), "a head belongs to its id");

        // What was stored before is known whatever the clock says.
        let late = Link { snapshot: id(0), ..link(2, 7) };
        again.note_sent(&state, late).unwrap();
        again.note_stored(&state, id(0)).unwrap();
        assert!(again.compare_newest(shown(1, 1)).unwrap().to_string().contains("older than"));

        // An answer that was lost.
        again.note_sent(&state, link(3, 3)).unwrap();
        let mut third = open(holder("key", 1));
        assert_eq!(third.compare_newest(shown(3, 3)), None);
        assert_eq!(third.next(), (4, [3; 32]));
        // The server has another key, or calls this host another: it is the same one, unless both are so.
        assert_eq!(open(holder("new key", 1)).next().0, 3);
        assert_eq!(open(holder("key", 2)).next().0, 3);
        assert_eq!(open(holder("new key", 2)).next().0, 1);
        assert_eq!(Chain::open(&state, VaultId::random(), holder("key", 1)).unwrap().next().0, 1);
        let chains = Chains::read(&state).unwrap();
        assert_eq!(chains.vault_used_last(&holder("key", 1)), Some(VaultId::from_bytes([1; 16])));
        assert_eq!(chains.vault_used_last(&holder("other", 2)), None);
    }

    #[test]
    fn a_chain_that_is_begun_anew_numbers_from_one_and_forgets_nothing() {
        let (_folder, state, mut chain) = with_chain(2);
        let before = chain.writer();
        chain.note_sent(&state, link(3, 3)).unwrap();
        chain.begin_anew();
        assert_ne!(chain.writer(), before);
        assert_eq!(chain.next(), (1, [0; 32]));
        chain.note_sent(&state, Link { snapshot: id(5), ..link(1, 5) }).unwrap();
        chain.note_stored(&state, id(5)).unwrap();
        let mut again = Chain::open(&state, VaultId::from_bytes([1; 16]), holder("key", 1)).unwrap();
        assert_eq!((again.writer(), again.next()), (chain.writer(), (2, [5; 32])));
        let other = Chain::open(&state, VaultId::from_bytes([2; 16]), holder("key", 1)).unwrap();
        assert_eq!(other.writer(), before, "the chains of other vaults go on");
        let compared = again.compare(&listed(&[(2, Some(2)), (4, Some(4)), (5, Some(5))], &[]));
        assert_eq!(compared.findings, [Finding::Gone { first: id(1), last: id(1), count: 1 }]);
        assert_eq!(compared.whole, [id(2), id(5)]);
        again.kept.stored = (0..VAULT_CHAIN_MAX as u64 - 1).map(|number| link(number % 60, 1)).collect();
        again.take_over(link(6, 6));
        assert_eq!((again.kept.earlier.len(), again.kept.stored.len()), (0, VAULT_CHAIN_MAX));
    }

    #[test]
    fn what_is_listed_is_compared_with_all_that_is_kept() {
        let (_folder, _state, mut chain) = with_chain(6);
        let all: Vec<(u8, Option<u8>)> = (1..=6).map(|number| (number, Some(number))).collect();
        let whole = [&all[..], &[(9, Some(9))]].concat();
        assert_eq!(
            chain.compare(&listed(&whole, &[])),
            Compared { writer: chain.writer(), whole: (1..=6).map(id).collect(), ..Compared::default() },
            "others' snapshots are none of its own"
        );

        // One is gone, two are, one was dropped, one is damaged, one has another head.
        let some = [all[0], (4, None), (5, Some(9)), all[5]];
        let compared = chain.compare(&listed(&some, &[3]));
        let gone = Finding::Gone { first: id(2), last: id(2), count: 1 };
        assert_eq!(compared.findings, [gone, Finding::OtherHead { snapshot: id(5) }]);
        assert_eq!((compared.gone, compared.dropped), (vec![id(2)], vec![id(3)]));
        assert!(!compared.is_newest_doubtful);
        let compared = chain.compare(&listed(&[all[0], all[3], all[4], all[5]], &[]));
        assert_eq!(compared.findings, [Finding::Gone { first: id(2), last: id(3), count: 2 }]);

        // The newest are gone: the server was set back.
        let set_back =
            |newest, shown, count| Finding::SetBack { newest: id(newest), shown, count, drops_are_known: true };
        let compared = chain.compare(&listed(&all[..4], &[]));
        assert_eq!(compared.findings, [set_back(6, Some(id(4)), 2)]);
        assert!(compared.is_newest_doubtful && compared.gone == [id(5), id(6)]);
        let compared = chain.compare(&Listed::default());
        assert_eq!((compared.findings, compared.is_newest_doubtful), (vec![set_back(6, None, 6)], true));
        assert_eq!(chain.compare(&listed(&all[..4], &[6])).findings, [set_back(5, Some(id(4)), 1)]);
        assert!(chain.compare(&listed(&[&all[..5], &[(6, Some(1))]].concat(), &[])).is_newest_doubtful);

        // All that is missing was dropped, or may have been.
        let compared = chain.compare(&listed(&all[4..], &[1, 2, 3, 4]));
        assert_eq!((compared.findings, compared.dropped.len()), (vec![], 4));
        let mut unsure = listed(&all[4..], &[]);
        unsure.dropped.before = Some(id(3));
        assert_eq!(chain.compare(&unsure).findings, [Finding::Gone { first: id(4), last: id(4), count: 1 }]);
    }

    #[test]
    fn an_answer_that_was_lost_is_found_in_the_list_and_the_oldest_heads_are_forgotten() {
        let (_folder, state, mut chain) = with_chain(2);
        chain.note_sent(&state, link(3, 3)).unwrap();
        assert_eq!(chain.compare(&listed(&[(1, Some(1)), (2, Some(2))], &[])).findings, [], "it may not be stored");
        assert_eq!(chain.stored().len(), 2);
        let compared = chain.compare(&listed(&[(1, Some(1)), (2, Some(2)), (3, Some(3))], &[]));
        assert_eq!(
            (chain.stored().len(), compared.whole),
            (3, vec![id(1), id(2)]),
            "it may have come after the latest"
        );

        chain.kept.stored = (0..VAULT_CHAIN_MAX as u64).map(|number| link(number % 60, 1)).collect();
        let sent = link(59, 5);
        chain.note_sent(&state, sent.clone()).unwrap();
        chain.note_stored(&state, sent.snapshot).unwrap();
        let again = Chain::open(&state, VaultId::from_bytes([1; 16]), holder("key", 1)).unwrap();
        assert_eq!((again.stored().len(), again.stored().last()), (VAULT_CHAIN_MAX, Some(&sent)));
    }
}
