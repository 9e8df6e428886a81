//! Vaults as a whole.
