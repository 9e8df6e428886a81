//! What a run opens vaults with: the full key, opened when it is first needed and once for a run; and what a server's list
//! lacks of what this host has stored, which is looked at once as well.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::super::error::ClientError;
use super::super::query::matches_selector;
use super::super::state::StateFolder;
use super::chain::{Chains, Compared, Finding, Holder};
use super::key_file::VaultKeys;
use super::passphrase::PassphraseSource;
use super::reader::{LATEST, VaultReader, dropped};
use crate::base::ids::SnapshotId;
use crate::base::vault::VaultId;
use crate::crypto::FullKey;
use crate::protocol::message::FailureCode;

/// What a run was given to open vaults with.
pub struct VaultAccess {
    /// None where nothing but an open key is at hand.
    keys: Option<VaultKeys>,
    /// The state folder whose chain a server's list is compared with; none where nobody would be told.
    state: Option<PathBuf>,
    opened: Mutex<Option<Arc<FullKey>>>,
    /// What that comparison has found: it is made once in a run.
    compared: Mutex<Option<Compared>>,
    /// What the state folder kept before anything was asked; or why that cannot be read.
    chains: OnceLock<Result<Chains, String>>,
    /// A plain snapshot that was given as the latest, where the vault's was wanted.
    plain: Mutex<Option<SnapshotId>>,
}

impl VaultAccess {
    pub fn new(keys: VaultKeys) -> VaultAccess {
        let state = Some(keys.state.clone());
        VaultAccess::with(Some(keys), state, None)
    }

    /// A key that is open already, and no other. With a state folder, its chain is compared with what the server lists.
    pub fn of_open_key(key: Arc<FullKey>, state: Option<&Path>) -> VaultAccess {
        VaultAccess::with(None, state.map(Path::to_path_buf), Some(key))
    }

    fn with(keys: Option<VaultKeys>, state: Option<PathBuf>, opened: Option<Arc<FullKey>>) -> VaultAccess {
        let opened = Mutex::new(opened);
        VaultAccess {
            keys,
            state,
            opened,
            compared: Mutex::default(),
            chains: OnceLock::new(),
            plain: Mutex::default(),
        }
    }

    /// The state folder that the chain is in.
    pub fn state(&self) -> Option<StateFolder> {
        self.state.as_deref().map(StateFolder::look)
    }

    /// What does not fit the chain of this host, as far as a vault was opened.
    pub fn compared(&self) -> Compared {
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        if let Some(shown) = *self.plain.lock().unwrap_or_else(PoisonError::into_inner) {
            compared.doubt(Finding::Plain { shown });
        }
        compared
    }

    /// What this host has stored, as it is known from before the server is asked: whatever it stores meanwhile, the server
    /// may have answered without.
    pub fn chains(&self) -> Option<&Result<Chains, String>> {
        let state = self.state()?;
        Some(self.chains.get_or_init(|| Chains::read(&state).map_err(|error| error.to_string())))
    }

    /// Compares what the server lists with the chain of this host, where it has one; once.
    ///
    /// # Errors
    /// Those of the line; what the server says where it has no such vault.
    pub fn compare_once(&self, reader: &mut VaultReader<'_>, holder: &Holder) -> Result<(), ClientError> {
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let (None, Some(chains)) = (&*compared, self.chains()) else { return Ok(()) };
        let mut chain = match chains {
            Ok(chains) => chains.of(reader.vault(), holder.clone()),
            // What is to be read can be read all the same.
            Err(problem) => {
                let findings = vec![Finding::Unreadable { problem: problem.clone() }];
                *compared = Some(Compared { findings, ..Compared::default() });
                return Ok(());
            }
        };
        if chain.is_empty() {
            *compared = Some(Compared::default());
            return Ok(());
        }
        let (listed, is_there) = reader.listed_or_nothing()?;
        *compared = Some(chain.compare(&listed));
        is_there
    }

    /// What is wrong with what the server gives as the latest, after the comparison. A newer one by this writer is of a copy
    /// of the state folder, or of the one that an older copy was put in the place of.
    pub fn note_latest(&self, shown: SnapshotId, writer: [u8; 16]) {
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(compared) = &mut *compared else { return };
        let Some(newest) = compared.whole.last().copied().filter(|newest| *newest != shown) else { return };
        let is_newer = shown.begun() >= newest.begun() && !compared.whole.contains(&shown);
        if !is_newer || writer != compared.writer {
            compared.doubt(Finding::NotLatest { shown, newest });
        }
    }

    /// Looks at a plain snapshot that the server gives. It could have made it by itself.
    ///
    /// # Errors
    /// This host has stored a sealed one under this id.
    pub fn check_plain(&self, shown: SnapshotId, selector: &str, holder: &Holder) -> Result<(), ClientError> {
        // Where they cannot be read, who reads a vault is told.
        let Some(Ok(chains)) = self.chains() else { return Ok(()) };
        if chains.has_stored(holder, shown) {
            return Err(ClientError::Integrity(format!(
                "snapshot {shown}: this host stored it in a vault, and the server gives a plain one under its id"
            )));
        }
        if selector == LATEST && self.is_given() && chains.vault_used_last(holder).is_some() {
            *self.plain.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        }
        Ok(())
    }

    /// That a snapshot is not there is damage where this host has stored it and nobody dropped it.
    pub fn explain(&self, error: ClientError, selector: &str) -> ClientError {
        let ClientError::Failure { code: FailureCode::NotFound, text } = error else { return error };
        let compared = self.compared();
        let meant = |ids: &[SnapshotId]| ids.iter().find(|id| matches_selector(**id, selector)).copied();
        match (meant(&compared.gone), meant(&compared.dropped)) {
            (Some(_), _) if selector == LATEST => {
                let count = compared.gone.len();
                ClientError::Integrity(format!("{text}; {count} that this host stored in the vault are gone"))
            }
            (Some(id), _) => ClientError::Integrity(Finding::Gone { first: id, last: id, count: 1 }.to_string()),
            (None, Some(id)) if selector != LATEST => dropped(id),
            _ => ClientError::Failure { code: FailureCode::NotFound, text },
        }
    }

    /// Whether a full key may be here at all.
    pub fn is_possible(&self) -> bool {
        self.keys.as_ref().is_none_or(VaultKeys::has_full_key)
    }

    /// Whether the person named a key, or said its passphrase, for this run.
    pub fn is_given(&self) -> bool {
        let is_given =
            |keys: &VaultKeys| keys.file.is_some() || !matches!(keys.passphrase, PassphraseSource::Terminal);
        self.keys.as_ref().is_none_or(is_given)
    }

    /// The full key of `vault`, or of whichever vault there is a key of.
    ///
    /// # Errors
    /// As [`VaultKeys::full_key`]; [`ClientError::NoVaultKey`] where the open key is another vault's.
    pub fn full_key(&self, vault: Option<VaultId>) -> Result<Arc<FullKey>, ClientError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = opened.as_ref().filter(|key| vault.is_none_or(|vault| vault == key.put().vault())) {
            return Ok(key.clone());
        }
        let keys = self.keys.as_ref().ok_or(ClientError::NoVaultKey { vault })?;
        let key = Arc::new(keys.full_key(vault)?);
        *opened = Some(key.clone());
        Ok(key)
    }
}
