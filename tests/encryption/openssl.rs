//! The `openssl` command line opens the pinned vectors, and it and this program open each other's secrets. Only
//! public interfaces and the files under `tests/testdata/vectors` are used here, so these tests say what a stranger
//! who has the protocol page can do.

use std::path::PathBuf;
use std::process::Command;

use cyberbackup::crypto::{OaepLabel, PrivateKey, Secret};
use serde_json::Value;

const SUFFIX_BYTES: usize = 32 + 4;
const NUMBERS_BYTES: usize = 8 + 8;
const IV_BYTES: usize = 16;

/// Runs openssl on `input` and gives its standard output.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("input");
    std::fs::write(&file, input).expect("the input can be written");
    let output = Command::new("openssl")
        .args(arguments)
        .stdin(std::fs::File::open(&file).expect("the input was just written"))
        .output()
        .unwrap_or_else(|error| {
            panic!("the openssl command line is needed for this test; install openssl: {error}")
        });
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn hmac(key: &str, input: &[u8]) -> Vec<u8> {
    let key = format!("hexkey:{key}");
    openssl(&["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"], input)
}

fn hkdf(mode: &str, options: &[&str]) -> String {
    let mode = format!("mode:{mode}");
    let mut arguments = vec!["kdf", "-binary", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", &mode];
    options.iter().for_each(|option| arguments.extend(["-kdfopt", option]));
    arguments.push("HKDF");
    hex(&openssl(&arguments, b""))
}

fn oaep(action: &str, key_file: &std::path::Path, label: &str, input: &[u8]) -> Vec<u8> {
    let label = format!("rsa_oaep_label:{}", hex(label.as_bytes()));
    let key_file = key_file.to_str().expect("a temporary path is text");
    let mut arguments = vec!["pkeyutl", action, "-keyform", "DER", "-inkey", key_file];
    for option in ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256", &label] {
        arguments.extend(["-pkeyopt", option]);
    }
    openssl(&arguments, input)
}

#[test]
fn openssl_opens_the_segment_vectors() {
    for vector in list(&read_vector("segment.json")["good"]) {
        let (frame, header_bytes) = (bytes(vector, "frame"), bytes(vector, "header").len());
        let (authenticated, suffix) = frame.split_at(frame.len() - SUFFIX_BYTES);
        let direction = if text(vector, "direction") == "client to server" { 1 } else { 2 };
        let kind = if text(vector, "kind") == "data" { 1 } else { 2 };
        let code = hmac(text(vector, "authentication_key"), &[&[direction, kind], authenticated].concat());
        assert_eq!(hex(&code), hex(&suffix[..32]), "{}", text(vector, "name"));
        let (iv, ciphertext) = authenticated[header_bytes + NUMBERS_BYTES..].split_at(IV_BYTES);
        let arguments = ["enc", "-d", "-aes-256-cbc", "-K", text(vector, "encryption_key"), "-iv", &hex(iv)];
        assert_eq!(hex(&openssl(&arguments, ciphertext)), text(vector, "plaintext"), "{}", text(vector, "name"));
    }
}

#[test]
fn openssl_derives_the_key_schedule() {
    let vector = read_vector("key_schedule.json");
    let salt = format!("hexsalt:{}", text(&vector, "transcript_hash"));
    let secrets = ["client_secret", "server_secret", "agreement"].map(|name| text(&vector, name)).concat();
    let root = hkdf("EXTRACT_ONLY", &[&salt, &format!("hexkey:{secrets}")]);
    let expand = |key: &str, label: &str| {
        let info = format!("hexinfo:{}", hex(format!("cyberbackup/3 {label}").as_bytes()));
        hkdf("EXPAND_ONLY", &[&format!("hexkey:{key}"), &info])
    };
    for chain in list(&vector["chains"]) {
        let mut secret = expand(&root, text(chain, "name"));
        for epoch in list(&chain["epochs"]) {
            assert_eq!(secret, text(epoch, "chain"));
            assert_eq!(expand(&secret, "encryption"), text(epoch, "encryption_key"));
            assert_eq!(expand(&secret, "authentication"), text(epoch, "authentication_key"));
            secret = expand(&secret, "next epoch");
        }
    }
}

#[test]
fn openssl_computes_the_enrolment_proof() {
    let vector = &read_vector("key_schedule.json")["enrol"];
    let name = text(vector, "name").as_bytes();
    let length = u16::try_from(name.len()).expect("a short name").to_le_bytes();
    let parts = [b"enrol", &bytes(vector, "transcript_hash")[..], &length, name, &bytes(vector, "public_key")];
    assert_eq!(hex(&hmac(text(vector, "token"), &parts.concat())), text(vector, "proof"));
}

#[test]
fn openssl_and_this_program_open_each_others_secrets() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let key_file = folder.path().join("key.der");
    let label = OaepLabel::ClientToServer;
    for vector in list(&read_vector("oaep.json")["good"]) {
        let der = bytes(vector, "private_key");
        std::fs::write(&key_file, &der).expect("the key can be written");
        let opened = oaep("-decrypt", &key_file, text(vector, "label"), &bytes(vector, "ciphertext"));
        assert_eq!(hex(&opened), text(vector, "secret"), "{}", text(vector, "name"));

        let (key, secret) = (PrivateKey::from_pkcs8_der(&der).expect("a good key"), Secret::<32>::random());
        let sealed_here = key.public().seal_secret(label, &secret).expect("a good key");
        assert_eq!(oaep("-decrypt", &key_file, label.as_str(), &sealed_here), secret.expose());
        let sealed_there = oaep("-encrypt", &key_file, label.as_str(), secret.expose());
        assert_eq!(key.open_secret(label, &sealed_there).expose(), secret.expose());
    }
}

fn read_vector(file_name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/vectors").join(file_name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the vector is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("the vector has a list")
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("the vector has a text {name:?}"))
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    let digits = text(vector, name);
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
