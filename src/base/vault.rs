//! The identifiers of a vault: of itself, of a chunk in it, of the data key that a chunk is sealed under, and of the roots
//! of a snapshot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{IdError, hex, id16, random_array, unhex};

id16!(
    /// A vault, for good.
    VaultId,
    "vault id"
);
id16!(
    /// The key of one upload: the first bytes of the SHA-256 of the wrapped key.
    DataKeyId,
    "data key id"
);
id16!(
    /// Stands for the roots of a snapshot: a keyed hash of them, so that who stores it knows which snapshots are of the
    /// same roots, and not of which.
    RootSetId,
    "root set id"
);

/// What a chunk, or a list of chunks, is called: a keyed hash of what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkName([u8; ChunkName::BYTES]);

impl ChunkName {
    pub const BYTES: usize = 32;

    pub fn from_bytes(bytes: [u8; ChunkName::BYTES]) -> ChunkName {
        ChunkName(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; ChunkName::BYTES] {
        &self.0
    }
}

impl fmt::Display for ChunkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ChunkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ChunkName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_vault_show_as_hex() {
        let vault = VaultId::from_bytes([0xab; 16]);
        assert_eq!(vault.to_string(), "ab".repeat(16));
        assert_eq!(vault.to_string().parse::<VaultId>(), Ok(vault));
        assert_eq!(DataKeyId::from_bytes([1; 16]).to_string(), "01".repeat(16));
        assert_eq!(ChunkName::from_bytes([0xcd; 32]).to_string(), "cd".repeat(32));
    }
}
