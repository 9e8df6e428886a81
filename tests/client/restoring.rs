//! Restores: parts, and into folders where something is already.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::{Run, TestClient, TestServer, Workplace, tree};

fn restore(client: &TestClient<'_>, to: &Path, paths: &[&Path]) -> Run {
    let words = [OsStr::new("restore"), "--to".as_ref(), to.as_os_str()];
    client.run(words.into_iter().chain(paths.iter().map(|path| path.as_os_str())))
}

/// Where `path` lies once it is restored to `to`.
fn under(to: &Path, path: &Path) -> PathBuf {
    to.join(path.strip_prefix("/").unwrap())
}

#[test]
fn parts_come_back_alone() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    for name in ["a/one", "a/two", "a.b/three", "c/d/four", "c/five"] {
        workplace.write(source.join(name), name);
    }
    client.backup(&source);
    let to = workplace.join("to");
    restore(&client, &to, &[&source.join("a"), &source.join("c/d/four")]).expect(0);
    let names: Vec<String> =
        tree::look(&under(&to, &source)).into_keys().map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["", "/a", "/a/one", "/a/two", "/c", "/c/d", "/c/d/four"]);
    let run = restore(&client, &to, &[&source.join("nothing")]).expect(1);
    assert!(run.err().contains("source/nothing"), "{}", run.err());
}

#[test]
fn what_is_there_is_replaced_and_what_is_not_in_the_snapshot_stays() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    workplace.write(source.join("file"), "new");
    workplace.write(source.join("folder/inside"), "new");
    symlink("new target", source.join("link")).unwrap();
    client.backup(&source);
    let to = workplace.join("to");
    let target = under(&to, &source);
    workplace.write(target.join("file"), "old and longer");
    workplace.write(target.join("other"), "kept");
    symlink("old target", target.join("link")).unwrap();
    fs::hard_link(target.join("file"), workplace.join("second name")).unwrap();
    restore(&client, &to, &[]).expect(0);
    assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "kept");
    // The old file was replaced, not written into: its second name still has the old content.
    assert_eq!(fs::read_to_string(workplace.join("second name")).unwrap(), "old and longer");
    fs::remove_file(target.join("other")).unwrap();
    restore(&client, &to, &[]).expect(0);
    tree::assert_same(&source, &target);
}

#[test]
fn nothing_is_written_through_a_link() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    workplace.write(source.join("folder/file"), "from the snapshot");
    workplace.write(source.join("plain"), "from the snapshot");
    client.backup(&source);
    let outside = workplace.join("outside");
    workplace.write(outside.join("file"), "untouched");
    let victim = workplace.write("victim", "untouched");
    let before = (tree::look(&outside), fs::metadata(&victim).unwrap().mtime_nsec());
    let to = workplace.join("to");
    let target = under(&to, &source);
    fs::create_dir_all(&target).unwrap();
    symlink(&outside, target.join("folder")).unwrap();
    symlink(&victim, target.join("plain")).unwrap();
    restore(&client, &to, &[]).expect(0);
    assert_eq!(tree::look(&outside), before.0);
    let victim_now = (fs::read_to_string(&victim).unwrap(), fs::metadata(&victim).unwrap().mtime_nsec());
    assert_eq!(victim_now, ("untouched".to_string(), before.1));
    tree::assert_same(&source, &target);
}

#[test]
fn a_link_on_the_way_to_a_part_is_not_followed_either() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    let file = workplace.write(source.join("one/two/file"), "from the snapshot");
    client.backup(&source);
    let outside = workplace.join("outside");
    fs::create_dir_all(outside.join("two")).unwrap();
    let to = workplace.join("to");
    let target = under(&to, &source);
    fs::create_dir_all(&target).unwrap();
    symlink(&outside, target.join("one")).unwrap();
    restore(&client, &to, &[&file]).expect(0);
    assert_eq!(fs::read_dir(outside.join("two")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(under(&to, &file)).unwrap(), "from the snapshot");
}

#[test]
fn what_stands_in_the_way_is_named_and_the_rest_comes_back() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    workplace.write(source.join("a file"), "1");
    workplace.write(source.join("another"), "2");
    client.backup(&source);
    let to = workplace.join("to");
    let target = under(&to, &source);
    workplace.write(target.join("a file/kept"), "kept");
    let run = restore(&client, &to, &[]).expect(3);
    let wanted =
        "a file: a folder stands where the snapshot has a file: move it away, or restore to another folder";
    assert!(run.err().contains(wanted) && run.out().contains("; 1 error, named above"), "{}", run.err());
    assert_eq!(fs::read_to_string(target.join("a file/kept")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(target.join("another")).unwrap(), "2");
}

#[test]
fn a_target_that_cannot_be_used_is_named() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    client.backup(&workplace.write("file", "1"));
    let run = client.run(["restore", "--to", "/dev/null/here"]).expect(1);
    assert!(run.err().contains("cannot restore to /dev/null/here: "), "{}", run.err());
    let run = client.run(["restore"]).expect(2);
    assert!(run.err().contains("where to restore to is not said: give --to DIR"), "{}", run.err());
}
