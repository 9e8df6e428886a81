//! What the tests of this module share: hexadecimal text and the pinned vectors under `tests/testdata/vectors`.

use std::path::PathBuf;

use serde_json::Value;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "hexadecimal text comes in pairs");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

/// The bytes of a hexadecimal field of a vector.
pub fn field(vector: &Value, name: &str) -> Vec<u8> {
    unhex(text(vector, name))
}

/// A hexadecimal field of exactly `N` bytes.
pub fn field_array<const N: usize>(vector: &Value, name: &str) -> [u8; N] {
    field(vector, name).try_into().unwrap_or_else(|_| panic!("the vector's {name:?} has {N} bytes"))
}

pub fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("the vector has a text {name:?}"))
}

pub fn read_vector(file_name: &str) -> Value {
    let path = vector_path(file_name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the vector is JSON")
}

/// Writes a vector anew; called only by the ignored `rewrite_…` tests, when the format itself changes.
pub fn write_vector(file_name: &str, vector: &Value) {
    let text = serde_json::to_string_pretty(vector).expect("a JSON value can be written") + "\n";
    std::fs::write(vector_path(file_name), text).expect("the vector can be written");
}

fn vector_path(file_name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/vectors").join(file_name)
}
