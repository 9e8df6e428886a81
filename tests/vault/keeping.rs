//! What the rules keep of a vault, whose roots and tags the server does not know.

use std::ffi::OsStr;
use std::fs;

use serde_json::Value;

use super::{back_up, opened, with_vault};
use crate::support::tree::assert_same;
use crate::support::{Run, TestClient, TestServer, Workplace};

fn prune(workplace: &Workplace, server: &TestServer, rules: &[&str]) {
    let words = [OsStr::new("prune"), "--data".as_ref(), server.data.as_os_str()];
    workplace.run(words.into_iter().chain(rules.iter().map(OsStr::new))).expect(0);
}

/// The ids of the client's snapshots, the oldest first.
fn snapshots(client: &TestClient<'_>) -> Vec<String> {
    let rows = client.run(["snapshots", "--json"]).expect(0).out();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows = rows.filter(|row| row["event"] == "snapshot");
    rows.map(|row| row["data"]["snapshot"].as_str().unwrap().to_string()).collect()
}

#[test]
fn the_newest_of_each_set_of_roots_is_kept() {
    let workplace = Workplace::new();
    let (server, ada) = with_vault(&workplace);
    let (photos, letters) = (workplace.join("photos"), workplace.join("letters"));
    for root in [&photos, &letters] {
        fs::create_dir(root).unwrap();
        fs::write(root.join("file"), root.as_os_str().as_encoded_bytes()).unwrap();
    }
    back_up(&ada, &photos);
    let newest_photos = back_up(&ada, &photos);
    back_up(&ada, &letters);
    let newest_letters = back_up(&ada, &letters);
    prune(&workplace, &server, &["--keep-daily", "1", "--keep-within", "0"]);
    assert_eq!(snapshots(&ada), [newest_photos.as_str(), &newest_letters]);
    let to = workplace.join("restored");
    let words = ["restore", "--snapshot", &newest_photos, "--to"].map(OsStr::new);
    Run::of(opened(&ada, words.into_iter().chain([to.as_os_str()]))).expect(0);
    assert_same(&photos, &to.join(photos.strip_prefix("/").unwrap()));
}

#[test]
fn a_hold_keeps_what_a_sealed_tag_cannot() {
    let workplace = Workplace::new();
    let (server, ada) = with_vault(&workplace);
    let source = workplace.join("source");
    fs::create_dir(&source).unwrap();
    let tagged = || {
        let words = ["backup", "--vault", "--tag", "release", "--quiet"].map(OsStr::new);
        ada.run(words.into_iter().chain([source.as_os_str()])).expect(0);
    };
    (0..3).for_each(|_| tagged());
    let ids = snapshots(&ada);
    let hold = [OsStr::new("hold"), ids[0].as_ref(), "--data".as_ref(), server.data.as_os_str()];
    workplace.run(hold).expect(0);
    prune(&workplace, &server, &["--keep-tag", "release", "--keep-within", "0"]);
    assert_eq!(snapshots(&ada), [ids[0].as_str(), &ids[2]]);
}
