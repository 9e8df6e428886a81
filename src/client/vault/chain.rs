//! The chain of heads that this host has stored in a vault: each names the hash of the one before. The state folder keeps
//! the newest, so a server that was set back, or has lost or exchanged it, is found without reading anything.

use serde::{Deserialize, Serialize};

use super::super::state::{StateError, StateFolder};
use crate::base::ids::{SnapshotId, hex, random_array, unhex};
use crate::base::vault::VaultId;

const CHAIN_FILE: &str = "vault-chain.json";
const CHAIN_VERSION: u32 = 1;
/// Chains that are kept: one for each vault and server.
const CHAINS_MAX: usize = 64;
/// Heads before the newest that are remembered, so that a server that shows one of them is known to have been set back.
const EARLIER_MAX: usize = 64;

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
    /// The fingerprint of the server's key.
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored: Option<Link>,
    /// The hashes of heads that were stored before it, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
    /// A head that was sent, and whose answer has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Link>,
}

/// A head in a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub counter: u64,
    /// The hash of the sealed head, in hex.
    pub head: String,
    /// None while the answer has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
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

impl Chain {
    /// The chain as the state folder keeps it; a new one where it keeps none.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(state: &StateFolder, vault: VaultId, server: &str) -> Result<Chain, StateError> {
        let file = read(state)?;
        let writer = file.as_ref().and_then(|file| unhex(&file.writer)).unwrap_or_else(random_array);
        let kept =
            file.into_iter().flat_map(|file| file.chains).find(|kept| kept.vault == vault && kept.server == server);
        let new = || KeptChain { vault, server: server.to_string(), stored: None, earlier: Vec::new(), sent: None };
        Ok(Chain { writer, kept: kept.unwrap_or_else(new) })
    }

    pub fn writer(&self) -> [u8; 16] {
        self.writer
    }

    /// The newest head that is known to be stored.
    pub fn stored(&self) -> Option<&Link> {
        self.kept.stored.as_ref()
    }

    /// Counter and predecessor of the next head.
    pub fn next(&self) -> (u64, [u8; 32]) {
        let stored = self.kept.stored.as_ref();
        let previous = stored.and_then(|link| unhex(&link.head)).unwrap_or_default();
        (stored.map_or(1, |link| link.counter.saturating_add(1)), previous)
    }

    /// Compares what the server shows with what is kept, and takes a head over whose answer was lost. Gives what to tell
    /// a person where they do not fit.
    pub fn compare(&mut self, shown: Option<Shown>) -> Option<String> {
        let is = |link: &Link, shown: Shown| link.head == hex(&shown.head);
        if let (Some(sent), Some(shown)) = (&self.kept.sent, shown)
            && is(sent, shown)
        {
            let sent = sent.clone();
            self.take_over(sent, shown.snapshot);
        }
        let stored = self.kept.stored.as_ref()?;
        let id = stored.snapshot.map_or_else(|| format!("number {}", stored.counter), |id| id.to_string());
        let vault = self.kept.vault;
        match shown {
            Some(shown) if is(stored, shown) => None,
            None => Some(format!(
                "the server has no snapshot of this host in the vault {vault} any more; the last one was {id}: unless \
                 it was dropped on purpose, the server has lost it or was set back to an older state"
            )),
            Some(shown) if self.is_earlier(shown) => Some(format!(
                "the newest snapshot of this host in the vault {vault} is {} at the server, older than {id}, which was \
                 stored last: unless that was dropped on purpose, the server has lost it or was set back",
                shown.snapshot
            )),
            Some(shown) if stored.snapshot == Some(shown.snapshot) => Some(format!(
                "the snapshot {id} in the vault {vault} is not the one that this host stored: its head is another one"
            )),
            Some(shown) => Some(format!(
                "the newest snapshot of this host in the vault {vault} is {}, which this state folder does not know \
                 of: a copy of it is in use elsewhere, or an older one was put back",
                shown.snapshot
            )),
        }
    }

    /// A head goes to the server: kept before its answer can be lost.
    pub fn note_sent(&mut self, state: &StateFolder, counter: u64, head: [u8; 32]) -> Result<(), StateError> {
        self.kept.sent = Some(Link { counter, head: hex(&head), snapshot: None });
        self.write(state)
    }

    /// The head that was sent is stored.
    pub fn note_stored(&mut self, state: &StateFolder, snapshot: SnapshotId) -> Result<(), StateError> {
        if let Some(sent) = self.kept.sent.take() {
            self.take_over(sent, snapshot);
        }
        self.write(state)
    }

    fn take_over(&mut self, sent: Link, snapshot: SnapshotId) {
        let before = self.kept.stored.replace(Link { snapshot: Some(snapshot), ..sent });
        self.kept.sent = None;
        self.kept.earlier.extend(before.map(|link| link.head));
        let spare = self.kept.earlier.len().saturating_sub(EARLIER_MAX);
        self.kept.earlier.drain(..spare);
    }

    /// Whether what is shown came before the newest: one that is remembered, or by the time in its id.
    fn is_earlier(&self, shown: Shown) -> bool {
        let newest = self.kept.stored.as_ref().and_then(|link| link.snapshot);
        let has_earlier_id = newest.is_some_and(|newest| shown.snapshot < newest);
        has_earlier_id || self.kept.earlier.contains(&hex(&shown.head))
    }

    fn write(&self, state: &StateFolder) -> Result<(), StateError> {
        let mut chains = read(state)?.map(|file| file.chains).unwrap_or_default();
        chains.retain(|kept| (kept.vault, &kept.server) != (self.kept.vault, &self.kept.server));
        chains.push(self.kept.clone());
        let spare = chains.len().saturating_sub(CHAINS_MAX);
        chains.drain(..spare);
        state.write_json(CHAIN_FILE, &ChainFile { version: CHAIN_VERSION, writer: hex(&self.writer), chains })
    }
}

fn read(state: &StateFolder) -> Result<Option<ChainFile>, StateError> {
    let Some(bytes) = state.read_file(CHAIN_FILE)? else { return Ok(None) };
    let damaged = |problem: String| StateError::Damaged { file: state.path().join(CHAIN_FILE), problem };
    let file: ChainFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match file.version {
        1..=CHAIN_VERSION => Ok(Some(file)),
        version => Err(damaged(format!("version {version} is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "SHA256:server";

    fn id(second: u8) -> SnapshotId {
        format!("20260131T2359{second:02}Z-00c0ffee").parse().unwrap()
    }

    #[test]
    fn a_chain_goes_on_and_what_does_not_fit_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path(), "test").unwrap();
        let vault = VaultId::random();
        let mut chain = Chain::open(&state, vault, SERVER).unwrap();
        assert_eq!((chain.next(), chain.compare(None)), ((1, [0; 32]), None));
        chain.note_sent(&state, 1, [1; 32]).unwrap();
        chain.note_stored(&state, id(1)).unwrap();

        let mut again = Chain::open(&state, vault, SERVER).unwrap();
        assert_eq!((again.writer(), again.next()), (chain.writer(), (2, [1; 32])));
        assert_eq!(again.compare(Some(Shown { snapshot: id(1), head: [1; 32] })), None);
        let mut told = |shown| again.compare(shown).unwrap();
        assert!(told(None).contains("has no snapshot of this host"));
        assert!(told(Some(Shown { snapshot: id(0), head: [9; 32] })).contains("older than"));
        assert!(told(Some(Shown { snapshot: id(1), head: [9; 32] })).contains("is not the one"));
        assert!(told(Some(Shown { snapshot: id(2), head: [9; 32] })).contains("does not know of"));

        // What was stored before is known whatever the clock says.
        again.note_sent(&state, 2, [7; 32]).unwrap();
        again.note_stored(&state, id(1)).unwrap();
        assert!(again.compare(Some(Shown { snapshot: id(2), head: [1; 32] })).unwrap().contains("older than"));

        // An answer that was lost.
        again.note_sent(&state, 2, [2; 32]).unwrap();
        let mut third = Chain::open(&state, vault, SERVER).unwrap();
        assert_eq!(third.compare(Some(Shown { snapshot: id(2), head: [2; 32] })), None);
        assert_eq!(third.next(), (3, [2; 32]));
        assert_eq!(Chain::open(&state, vault, "SHA256:other").unwrap().next().0, 1);
        assert_eq!(Chain::open(&state, VaultId::random(), SERVER).unwrap().next().0, 1);
    }
}
