//! The full key of a vault, opened when it is first needed and once for a run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::ClientError;
use super::key_file::VaultKeys;
use super::passphrase::PassphraseSource;
use crate::base::vault::VaultId;
use crate::crypto::FullKey;

/// What a run was given to open vaults with.
pub struct VaultAccess {
    /// None where nothing but an open key is at hand.
    keys: Option<VaultKeys>,
    state: PathBuf,
    opened: Mutex<Option<Arc<FullKey>>>,
}

impl VaultAccess {
    pub fn new(keys: VaultKeys) -> VaultAccess {
        VaultAccess { state: keys.state.clone(), keys: Some(keys), opened: Mutex::new(None) }
    }

    /// A key that is open already, and no other.
    pub fn of_open_key(key: Arc<FullKey>, state: &Path) -> VaultAccess {
        VaultAccess { keys: None, state: state.to_path_buf(), opened: Mutex::new(Some(key)) }
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
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
