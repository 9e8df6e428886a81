//! The page on the format holds: a reader in another language, written from it alone, restores a vault.

use std::fs;
use std::process::Command;

use super::{back_up, with_vault};
use crate::support::{Run, Workplace, tree};

#[test]
fn a_reader_in_another_language_restores_a_vault_from_the_disk() {
    let workplace = Workplace::new();
    let (server, ada) = with_vault(&workplace);
    let source = workplace.join("source");
    for number in 0..30 {
        workplace.write(format!("source/many/{number}"), tree::bytes(number, 700 * number as usize));
    }
    workplace.write("source/words", "all work and no play makes a dull file\n".repeat(9_000));
    workplace.write("source/large", tree::bytes(98, 500_000));
    std::os::unix::fs::symlink("many/3", source.join("link")).unwrap();
    fs::hard_link(source.join("words"), source.join("words too")).unwrap();
    back_up(&ada, &source);
    fs::write(source.join("large"), tree::bytes(97, 400_000)).unwrap();
    let snapshot = back_up(&ada, &source);

    let passphrase = workplace.write("passphrase", "one\n");
    let key_file = ada.state().join("vault.key");
    let mut reader = Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vault/reader.py");
    reader.arg(script).args([&server.data, &key_file, &passphrase]);
    reader.arg(&snapshot).arg(workplace.join("restored"));
    Run::of(reader).expect(0);
    let restored = workplace.join("restored").join(source.strip_prefix("/").unwrap());
    for name in ["many", "words", "large", "link", "words too"] {
        let (left, right) = (source.join(name), restored.join(name));
        let is_same = Command::new("diff").arg("-r").args([&left, &right]).status().unwrap().success();
        assert!(is_same, "{name} comes back as it was");
    }
}
