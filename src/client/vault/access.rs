//! The full key of a vault, opened when it is first needed and once for a run.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::ClientError;
use super::key_file::VaultKeys;
use super::passphrase::PassphraseSource;
use crate::base::vault::VaultId;
use crate::crypto::FullKey;

/// What a run was given to open vaults with.
pub struct VaultAccess {
    keys: VaultKeys,
    opened: Mutex<Option<Arc<FullKey>>>,
}

impl VaultAccess {
    pub fn new(keys: VaultKeys) -> VaultAccess {
        VaultAccess { keys, opened: Mutex::new(None) }
    }

    /// Whether a full key may be here at all.
    pub fn is_possible(&self) -> bool {
        self.keys.has_full_key()
    }

    /// Whether the person named a key, or said its passphrase, for this run.
    pub fn is_given(&self) -> bool {
        self.keys.file.is_some() || !matches!(self.keys.passphrase, PassphraseSource::Terminal)
    }

    /// The full key of `vault`, or of whichever vault there is a key of.
    ///
    /// # Errors
    /// As [`VaultKeys::full_key`].
    pub fn full_key(&self, vault: Option<VaultId>) -> Result<Arc<FullKey>, ClientError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = opened.as_ref().filter(|key| vault.is_none_or(|vault| vault == key.put().vault())) {
            return Ok(key.clone());
        }
        let key = Arc::new(self.keys.full_key(vault)?);
        *opened = Some(key.clone());
        Ok(key)
    }
}
