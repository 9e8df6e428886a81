//! Vaults as a whole: a small client stores lists of chunks that nobody can open, as a real one does, and the tests
//! look at what is there afterwards.

mod crash;
mod damage;
mod filling;
mod scale;
mod space;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::base::ids::UploadId;
use crate::base::time::Timestamp;
use crate::base::vault::{DataKeyId, RootSetId};
use crate::crypto::{blake3_hash, crc32, data_key_id, list_id, token_hash};
use crate::storage::head::Head;
use crate::storage::store::Store;

const VAULT: [u8; 16] = [9; 16];
const WRITE_TOKEN: [u8; 32] = [1; 32];
const READ_TOKEN: [u8; 32] = [2; 32];
const BLOCKS: usize = 64;

/// A tree: lists of chunks, each told by a number.
type Tree = Vec<Vec<u64>>;

fn tree(lists: std::ops::Range<u64>) -> Tree {
    lists.map(|list| (0..6).map(|chunk| list * 10 + chunk).collect()).collect()
}

fn vault() -> VaultId {
    VaultId::from_bytes(VAULT)
}

fn chunk_name(number: u64) -> ChunkName {
    ChunkName::from_bytes(blake3_hash(&number.to_le_bytes()))
}

/// Something that looks sealed: random bytes of the right length, and the CRC32 that the server looks at.
fn sealed(name: ChunkName, key: DataKeyId, blocks: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * 16 + 52);
    while bytes.len() < blocks * 16 + 48 {
        bytes.extend_from_slice(&blake3_hash(&[name.as_bytes(), &bytes.len().to_le_bytes()[..]].concat()));
    }
    bytes.truncate(blocks * 16 + 48);
    let crc = crc32(&[name.as_bytes(), &key.as_bytes()[..], &bytes].concat());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn names_of(list: &[u64]) -> Vec<ChunkName> {
    list.iter().map(|number| chunk_name(*number)).collect()
}

fn bytes_of(names: &[ChunkName]) -> Vec<u8> {
    names.iter().flat_map(|name| *name.as_bytes()).collect()
}

fn request(upload: UploadId) -> VaultUploadRequest {
    VaultUploadRequest {
        vault: vault(),
        write_token: WRITE_TOKEN,
        read_verifier: token_hash(&READ_TOKEN),
        upload,
        set: RootSetId::from_bytes([7; 16]),
        started: Timestamp { seconds: 5, nanoseconds: 6 },
        dry_run: false,
        wrapped_key: UploadId::random().as_bytes().repeat(24),
    }
}

struct Client {
    upload: VaultUpload,
    key: DataKeyId,
}

impl Client {
    fn begin(store: &Store, client: ClientId, request: VaultUploadRequest) -> Result<Client, StoreError> {
        let key = data_key_id(&request.wrapped_key);
        match store.begin_vault_upload(client, request, || {})? {
            VaultBegun::Open(upload) => Ok(Client { upload: *upload, key }),
            VaultBegun::AlreadyStored(head) => panic!("{} is stored already", head.id),
        }
    }

    /// The places of what is lacking.
    fn lacking(&mut self, names: &[ChunkName]) -> Result<Vec<usize>, StoreError> {
        let bits = self.upload.ask(&bytes_of(names))?;
        Ok((0..names.len()).filter(|place| bits[place / 8] >> (place % 8) & 1 == 1).collect())
    }

    /// Sends the chunks of a list that are lacking; gives how many.
    fn send_chunks(&mut self, list: &[u64]) -> Result<usize, StoreError> {
        let names = names_of(list);
        let lacking = self.lacking(&names)?;
        for place in &lacking {
            self.upload.chunk(names[*place], &sealed(names[*place], self.key, BLOCKS))?;
        }
        Ok(lacking.len())
    }

    /// Sends what is lacking of a tree; gives how many chunks and lists.
    fn send(&mut self, tree: &Tree) -> Result<(usize, usize), StoreError> {
        let lists: Vec<ChunkName> = tree.iter().map(|list| list_id(&names_of(list))).collect();
        let lacking = self.lacking(&lists)?;
        let mut chunks = 0;
        for place in &lacking {
            chunks += self.send_chunks(&tree[*place])?;
            self.upload.list(&bytes_of(&names_of(&tree[*place])))?;
        }
        self.upload.needs(&bytes_of(&lists))?;
        Ok((chunks, lacking.len()))
    }

    fn commit(self) -> Result<Arc<Head>, StoreError> {
        let name = ChunkName::from_bytes([0x77; 32]);
        let head = sealed(name, self.key, 4);
        self.upload.commit(name, &head)
    }
}

fn try_back_up(store: &Store, client: ClientId, upload: UploadId, tree: &Tree) -> Result<Arc<Head>, StoreError> {
    let request = request(upload);
    let key = data_key_id(&request.wrapped_key);
    match store.begin_vault_upload(client, request, || {})? {
        VaultBegun::AlreadyStored(head) => Ok(head),
        VaultBegun::Open(upload) => {
            let mut client = Client { upload: *upload, key };
            client.send(tree)?;
            client.commit()
        }
    }
}

fn back_up(store: &Store, client: ClientId, tree: &Tree) -> Arc<Head> {
    try_back_up(store, client, UploadId::random(), tree).unwrap()
}

/// Reads all that a snapshot needs, and compares it.
fn check_snapshot(store: &Store, head: &Head, tree: &Tree) {
    let reader = store.read_vault(vault(), &READ_TOKEN).unwrap();
    for number in tree.iter().flatten() {
        let name = chunk_name(*number);
        let found = chunk_of(&reader, &name).unwrap_or_else(|| panic!("chunk {number} is missing"));
        assert!(found.sealed == sealed(name, found.key, BLOCKS), "chunk {number} is another one");
        let wrapped = reader.wrapped_key(&found.key).unwrap().expect("its key is there");
        assert_eq!(data_key_id(&wrapped), found.key);
    }
    let mut heads = Vec::new();
    store
        .vault_snapshots(&reader, head.id.as_str(), &mut |snapshot| {
            heads.push(snapshot);
            true
        })
        .unwrap();
    let [snapshot] = &heads[..] else { panic!("{} snapshots", heads.len()) };
    let found = snapshot.head.as_ref().expect("its head is whole");
    assert_eq!(found.sealed, sealed(found.name, found.key, 4));
    assert_eq!(damage_of(store, head), Vec::<String>::new());
}

/// What the server finds damaged of a snapshot.
fn damage_of(store: &Store, head: &Head) -> Vec<String> {
    struct Texts(Vec<String>);
    impl VaultWatch for Texts {
        fn read(&mut self, _: u64, _: u64) -> bool {
            true
        }
        fn damaged(&mut self, text: String) -> bool {
            self.0.push(text);
            true
        }
    }
    let mut texts = Texts(Vec::new());
    let place = head.vault.unwrap();
    assert!(store.verify_in_vault(head.id, place, &mut VaultRun::default(), &|_| true, &mut texts).unwrap());
    texts.0
}

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    client: ClientId,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Disk::real()).unwrap();
    let client = store.register(ClientId::random(), &"ada".parse().unwrap(), b"key", false).unwrap().id;
    Fixture { folder, store, client }
}

impl Fixture {
    fn reopen(self) -> Fixture {
        let Fixture { folder, store, client } = self;
        drop(store);
        let store = Store::open(folder.path(), Disk::real()).unwrap();
        Fixture { folder, store, client }
    }

    fn path(&self) -> PathBuf {
        vault_path(self.folder.path())
    }

    fn pack_bytes(&self) -> u64 {
        pack_bytes(&self.path())
    }
}

fn vault_path(data: &Path) -> PathBuf {
    data.join("vaults").join(vault().to_string())
}

fn drop_snapshot(store: &Store, head: &Head) {
    let drops = store.drop_snapshots(head.client, &[head.id]).unwrap();
    assert_eq!(drops.dropped.len(), 1);
    store.sweep(head.client).unwrap();
}

fn packs_of(path: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> =
        std::fs::read_dir(path.join(PACKS)).unwrap().map(|item| item.unwrap().path()).collect();
    packs.sort();
    packs
}

fn pack_bytes(path: &Path) -> u64 {
    packs_of(path).iter().map(|pack| pack.metadata().unwrap().len()).sum()
}

/// One chunk, where it can be had.
fn chunk_of(reader: &VaultReader, name: &ChunkName) -> Option<SealedObject> {
    let mut found = None;
    let mut take = |_: &ChunkName, chunk| {
        found = chunk;
        true
    };
    reader.chunks(std::slice::from_ref(name), &mut take).unwrap();
    found
}

#[test]
fn what_was_stored_comes_back_and_is_not_sent_again() {
    let fixture = fixture();
    let first = back_up(&fixture.store, fixture.client, &tree(0..3));
    check_snapshot(&fixture.store, &first, &tree(0..3));
    let (bytes, chunk) = (fixture.pack_bytes(), (BLOCKS * 16) as u64);
    assert!(bytes < first.totals.stored_bytes && bytes > 18 * chunk);
    assert_eq!((first.sequence, first.label.as_str(), first.roots.len()), (1, "", 0));

    let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    let newest = client.upload.newest().unwrap();
    assert_eq!((newest.0, newest.1.name), (first.id, ChunkName::from_bytes([0x77; 32])));
    assert_eq!(client.send(&tree(0..4)).unwrap(), (6, 1), "only what is new");
    let second = client.commit().unwrap();
    assert!(fixture.pack_bytes() - bytes < 8 * chunk);
    assert_eq!(second.sequence, 2);
    let fixture = fixture.reopen();
    check_snapshot(&fixture.store, &first, &tree(0..3));
    check_snapshot(&fixture.store, &second, &tree(0..4));
}

#[test]
fn an_upload_that_was_stored_is_not_stored_twice() {
    let fixture = fixture();
    let upload = UploadId::random();
    let first = try_back_up(&fixture.store, fixture.client, upload, &tree(0..1)).unwrap();
    let again = try_back_up(&fixture.store, fixture.client, upload, &tree(0..1)).unwrap();
    assert_eq!(first, again);
}

#[test]
fn another_vault_and_another_token_are_one_answer() {
    let fixture = fixture();
    back_up(&fixture.store, fixture.client, &tree(0..1));
    let no_vault = fixture.store.read_vault(VaultId::from_bytes([8; 16]), &READ_TOKEN).unwrap_err().to_string();
    let no_token = fixture.store.read_vault(vault(), &[3; 32]).unwrap_err().to_string();
    assert_eq!(no_vault, no_token);
    for (write_token, read_token) in [([4; 32], READ_TOKEN), (WRITE_TOKEN, [4; 32])] {
        let read_verifier = token_hash(&read_token);
        let other = VaultUploadRequest { write_token, read_verifier, ..request(UploadId::random()) };
        let refused = fixture.store.begin_vault_upload(fixture.client, other, || {}).unwrap_err();
        assert_eq!(refused.to_string(), no_vault);
    }
    let kept = std::fs::read_to_string(fixture.path().join("vault.json")).unwrap();
    assert!(
        !kept.contains(&crate::base::ids::hex(&WRITE_TOKEN)) && !kept.contains(&crate::base::ids::hex(&READ_TOKEN))
    );
}

#[test]
fn what_does_not_hold_together_is_refused() {
    let fixture = fixture();
    let begin = || Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    let mut client = begin();
    let name = chunk_name(1);
    let mut bad = sealed(name, client.key, 4);
    bad[20] ^= 1;
    assert!(client.upload.chunk(name, &bad).unwrap_err().is_peer_fault());
    let other_key = sealed(name, DataKeyId::from_bytes([0; 16]), 4);
    assert!(client.upload.chunk(name, &other_key).unwrap_err().is_peer_fault());
    assert!(client.upload.chunk(chunk_name(2), &sealed(name, client.key, 4)).unwrap_err().is_peer_fault());
    let lacking = client.upload.list(&bytes_of(&[name])).unwrap_err();
    assert!(matches!(&lacking, StoreError::NotFound { what } if what.contains("run it again")), "{lacking}");
    client.send_chunks(&[1]).unwrap();
    // A chunk is no list.
    assert!(matches!(client.upload.needs(&bytes_of(&[name])), Err(StoreError::NotFound { .. })));
    assert!(client.upload.ask(&[0; 33]).unwrap_err().is_peer_fault());
    assert!(client.upload.ask(&[]).unwrap_err().is_peer_fault());
    drop(client);
    let dry = VaultUploadRequest { dry_run: true, ..request(UploadId::random()) };
    let mut client = Client::begin(&fixture.store, fixture.client, dry).unwrap();
    assert_eq!(client.lacking(&[chunk_name(1), chunk_name(5)]).unwrap(), [1]);
    assert!(client.send_chunks(&[5]).unwrap_err().is_peer_fault());
    assert!(client.commit().unwrap_err().is_peer_fault());
}

#[test]
fn a_dry_run_makes_no_vault() {
    let fixture = fixture();
    let dry = VaultUploadRequest { dry_run: true, ..request(UploadId::random()) };
    let mut client = Client::begin(&fixture.store, fixture.client, dry).unwrap();
    assert_eq!(client.lacking(&[chunk_name(1)]).unwrap(), [0]);
    assert!(!fixture.path().exists());
}

#[test]
fn an_upload_that_was_cut_off_goes_on_with_what_it_stored() {
    let fixture = fixture();
    let upload = UploadId::random();
    let mut client = Client::begin(&fixture.store, fixture.client, request(upload)).unwrap();
    client.send_chunks(&[1, 2, 3]).unwrap();
    drop(client);
    // Nobody refers to the chunks, and they are waited for.
    let tidied = fixture.store.tidy_vault(vault()).unwrap();
    assert_eq!(tidied, Tidied::default());
    let fixture = fixture.reopen();
    let mut client = Client::begin(&fixture.store, fixture.client, request(upload)).unwrap();
    assert_eq!(client.send(&vec![vec![1, 2, 3, 4]]).unwrap(), (1, 1));
    let head = client.commit().unwrap();
    check_snapshot(&fixture.store, &head, &vec![vec![1, 2, 3, 4]]);
    assert!(head.totals.stored_bytes > 4 * (BLOCKS * 16) as u64, "all its sessions count");
}

#[test]
fn an_upload_that_goes_on_with_other_roots_becomes_a_snapshot_of_these() {
    let fixture = fixture();
    let upload = UploadId::random();
    let mut client = Client::begin(&fixture.store, fixture.client, request(upload)).unwrap();
    client.send_chunks(&[1, 2, 3]).unwrap();
    drop(client);
    let set = RootSetId::from_bytes([8; 16]);
    let other = VaultUploadRequest { set, ..request(upload) };
    let mut client = Client::begin(&fixture.store, fixture.client, other).unwrap();
    assert_eq!(client.send(&vec![vec![1, 2, 3]]).unwrap(), (0, 1), "what is held is held");
    let head = client.commit().unwrap();
    assert_eq!(head.vault.map(|place| place.set), Some(set));
    // Once it is stored its roots are those that it was stored with.
    assert_eq!(try_back_up(&fixture.store, fixture.client, upload, &tree(0..1)).unwrap(), head);
}

#[test]
fn two_uploads_at_once_share_no_pack_and_are_both_whole() {
    let fixture = fixture();
    let begin = || Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    let (mut one, mut two) = (begin(), begin());
    for list in 0..4 {
        // Both bring the second half of each list.
        one.send_chunks(&[10 * list, 10 * list + 1, 10 * list + 2]).unwrap();
        two.send_chunks(&[10 * list + 1, 10 * list + 2]).unwrap();
    }
    let (first, second): (Tree, Tree) =
        (vec![vec![0, 1, 2], vec![10, 11, 12]], vec![vec![1, 2], vec![21, 22], vec![11, 12]]);
    one.send(&first).unwrap();
    two.send(&second).unwrap();
    let (first_head, second_head) = (one.commit().unwrap(), two.commit().unwrap());
    assert_eq!(packs_of(&fixture.path()).len(), 2);
    check_snapshot(&fixture.store, &first_head, &first);
    check_snapshot(&fixture.store, &second_head, &second);
}

#[test]
fn a_quota_counts_what_lies_in_the_vault() {
    let fixture = fixture();
    back_up(&fixture.store, fixture.client, &tree(0..2));
    fixture.store.set_quota(fixture.client, Some(fixture.pack_bytes() + 5_000)).unwrap();
    let error = try_back_up(&fixture.store, fixture.client, UploadId::random(), &tree(5..9)).unwrap_err();
    assert!(matches!(error, StoreError::QuotaExceeded { .. }), "{error}");
    fixture.store.set_quota(fixture.client, None).unwrap();
    back_up(&fixture.store, fixture.client, &tree(5..9));
}

#[test]
fn plain_uploads_are_compared_with_no_sealed_snapshot() {
    use crate::storage::comparison::ChangeRule;
    use crate::storage::upload::{Begun, UploadRequest};
    let fixture = fixture();
    back_up(&fixture.store, fixture.client, &tree(0..1));
    let plain = UploadRequest {
        upload: UploadId::random(),
        roots: Vec::new(),
        label: String::new(),
        host: String::new(),
        tags: Vec::new(),
        full: false,
        changes: ChangeRule::default(),
        parent: None,
        started: Timestamp { seconds: 1, nanoseconds: 0 },
        dry_run: false,
    };
    let Begun::Open(upload) = fixture.store.begin_upload(fixture.client, plain, || {}).unwrap() else { panic!() };
    assert!(upload.base().is_none());
}
