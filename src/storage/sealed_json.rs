//! JSON that notices a changed byte: the last line is the checksum of everything before it. For the small records of
//! the store that have no format of their own.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

use super::error::StoreError;
use super::range::HASH_BYTES;
use crate::base::ids::hex;
use crate::crypto::blake3_hash as hash;

const SEAL_BEFORE: &str = ",\n  \"checksum\": \"";
const SEAL_AFTER: &str = "\"\n}\n";
pub const SEAL_BYTES: usize = SEAL_BEFORE.len() + 2 * HASH_BYTES + SEAL_AFTER.len();

/// The bytes of a file with these fields, sealed.
pub fn encode_sealed(file: &impl Serialize) -> Vec<u8> {
    seal(serde_json::to_string_pretty(file).expect("strings and numbers always serialise"))
}

/// The fields of a sealed file that lies at `path`.
///
/// # Errors
/// `Damaged` where a byte of it was changed, or it is no such file.
pub fn decode_sealed<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, StoreError> {
    if !is_sealed(bytes) {
        return Err(StoreError::damaged(path, "its checksum does not fit"));
    }
    serde_json::from_slice(bytes).map_err(|error| StoreError::damaged(path, error))
}

/// Puts the checksum of everything before it in the place of the closing brace.
pub fn seal(mut json: String) -> Vec<u8> {
    json.truncate(json.len() - "\n}".len());
    let checksum = hex(&hash(json.as_bytes()));
    json.push_str(SEAL_BEFORE);
    json.push_str(&checksum);
    json.push_str(SEAL_AFTER);
    json.into_bytes()
}

/// Whether the bytes end with the checksum of what is before it.
pub fn is_sealed(bytes: &[u8]) -> bool {
    let Some(cut) = bytes.len().checked_sub(SEAL_BYTES) else { return false };
    let (sealed, found) = bytes.split_at(cut);
    found == format!("{SEAL_BEFORE}{}{SEAL_AFTER}", hex(&hash(sealed))).as_bytes()
}
