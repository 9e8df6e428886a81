//! Keys of every allowed kind, and keys that advance within a session.

use std::path::Path;
use std::process::Command;

use crate::support::{TestClient, TestServer, Workplace, tree};

fn round_trip(client: &TestClient<'_>, source: &Path) {
    client.backup(source);
    tree::assert_same(source, &client.restore(source, "restored"));
}

#[test]
fn keys_that_advance_every_mebibyte_carry_8_mib_both_ways() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "2048", "--rekey-bytes", "1048576"]);
    let source = workplace.join("source");
    tree::many_files(&source, 20);
    std::fs::write(source.join("large"), tree::bytes(3, 8 << 20)).unwrap();
    round_trip(&TestClient::new(&workplace, &server.address, "ada"), &source);
}

#[test]
fn rsa_1024_peers_work_and_are_warned_about() {
    let workplace = Workplace::new();
    let server = TestServer::start_with(&workplace, "data", &["--rsa-bits", "1024"]);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    let mut client = TestClient::new(&workplace, &server.address, "ada");
    let bits = client.flags.iter().position(|flag| flag == "2048").unwrap();
    client.flags[bits] = "1024".into();
    let run = client.run(["backup".as_ref(), source.as_os_str()]).expect(0);
    assert!(run.err().contains("the server's key has only 1024 bits"), "{}", run.err());
    assert!(run.err().contains("an RSA key below 2,048 bits"), "{}", run.err());
    round_trip(&client, &source);
}

#[test]
fn client_keys_with_exponent_3_and_17_are_taken() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    tree::many_files(&source, 3);
    for exponent in ["3", "17", "65537"] {
        for bits in ["1024", "2048", "4096"] {
            let client = TestClient::new(&workplace, &server.address, &format!("{bits} {exponent}"));
            std::fs::create_dir(client.state()).unwrap();
            openssl_key(&client.state().join("valid_private_key.der"), bits, exponent);
            client.backup(&source);
        }
    }
    // Any other exponent is refused by name, before anything is sent.
    let client = TestClient::new(&workplace, &server.address, "5");
    std::fs::create_dir(client.state()).unwrap();
    openssl_key(&client.state().join("valid_private_key.der"), "2048", "5");
    let run = client.run(["backup".as_ref(), source.as_os_str()]).expect(2);
    assert!(run.err().contains("valid_private_key.der"), "{}", run.err());
}

/// Makes a PKCS#8 key file with the openssl command line.
fn openssl_key(file: &Path, bits: &str, exponent: &str) {
    let run = |words: &[&str]| {
        let output = Command::new("openssl").args(words).output().expect("openssl is installed");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let pem = file.with_extension("pem");
    let (pem, der) = (pem.to_str().unwrap(), file.to_str().unwrap());
    let (bits, exponent) = (format!("rsa_keygen_bits:{bits}"), format!("rsa_keygen_pubexp:{exponent}"));
    run(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits, "-pkeyopt", &exponent, "-out", pem]);
    run(&["pkcs8", "-topk8", "-nocrypt", "-in", pem, "-outform", "DER", "-out", der]);
}
