//! Whoever only listens learns sizes and times, not contents or names.
//!
//! One thing is readable: the user name, in the login message, which comes before there are keys.

use std::collections::HashSet;

use super::line::{Line, Recording};
use crate::support::{TestClient, TestServer, Workplace};

/// How long a stretch has to be to count as seen.
const STRETCH_BYTES: usize = 16;

/// Fails if any 16 bytes in a row of these secrets went over the line.
#[track_caller]
fn assert_unseen(recording: &Recording, secrets: &[Vec<u8>]) {
    let stretches: HashSet<&[u8]> = secrets.iter().flat_map(|secret| secret.windows(STRETCH_BYTES)).collect();
    for stream in recording.streams() {
        let seen = stream.windows(STRETCH_BYTES).find(|stretch| stretches.contains(stretch));
        assert_eq!(seen.map(String::from_utf8_lossy), None);
    }
}

#[test]
fn no_content_and_no_name_can_be_read_on_the_line() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    let folder = source.join("a folder whose name is a secret");
    std::fs::create_dir_all(&folder).unwrap();
    let mut secrets = vec![b"a folder whose name is a secret".to_vec(), source.to_str().unwrap().into()];
    for number in 0..40 {
        let (name, content) =
            (format!("a file with the secret name {number}"), format!("a secret text, {number}. "));
        std::fs::write(folder.join(&name), content.repeat(1 + number * 300)).unwrap();
        secrets.extend([name.into_bytes(), content.repeat(2).into_bytes()]);
    }
    // What would stand out most: the same block over and over.
    std::fs::write(folder.join("zeros"), vec![0; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("a secret place that a link names", folder.join("link")).unwrap();
    secrets.push(b"a secret place that a link names".to_vec());
    let (line, recording) = Line::recording(&server.address);
    let client = TestClient::new(&workplace, &line.address, "a user name in clear");
    let words = ["backup".as_ref(), "--label".as_ref(), "a label that is a secret".as_ref(), source.as_os_str()];
    client.run(words).expect(0);
    client.restore(&source, "restored");
    client.run(["ls"]).expect(0);
    client.run(["verify"]).expect(0);
    drop(line);
    secrets.extend([b"a label that is a secret".to_vec(), vec![0; 32]]);
    let bytes: usize = recording.streams().iter().map(Vec::len).sum();
    assert!(bytes > 2 << 20, "the line carried both ways: {bytes}");
    // The handshake holds no long run of zeros either: native headers have a client id of 16 zeros, which
    // is all that can match; it is taken out of the comparison with the byte after it.
    secrets.retain(|secret| secret.iter().any(|byte| *byte != 0));
    assert_unseen(&recording, &secrets);
    // The check itself can see: the user name is there.
    let name = b"a user name in clear";
    assert!(recording.streams().iter().any(|stream| stream.windows(name.len()).any(|window| window == name)));
}

#[test]
fn equal_contents_look_different_every_time() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let source = workplace.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 1 << 20]).unwrap();
    let (line, recording) = Line::recording(&server.address);
    let client = TestClient::new(&workplace, &line.address, "ada");
    let words = |full: &'static str| ["backup".as_ref(), full.as_ref(), source.as_os_str()];
    client.run(words("--full")).expect(0);
    client.run(words("--full")).expect(0);
    drop(line);
    // Blocks of ciphertext at their places: past header, numbers and IV of each data segment.
    let mut seen = HashSet::new();
    for connection in [0, 1] {
        let frames = recording.frames(connection, super::line::Way::ToServer);
        let data = frames.iter().filter(|frame| super::line::is_data(super::line::Way::ToServer, frame));
        for block in data.flat_map(|frame| frame[23 + 16..frame.len() - 36].chunks_exact(16)) {
            assert!(seen.insert(block.to_vec()), "a block of ciphertext came twice");
        }
    }
    assert!(seen.len() > 2 * 65_536, "{}", seen.len());
}
