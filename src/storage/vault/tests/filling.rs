//! Uploads that fill pack after pack: several are indexed at once.

use super::*;

/// Chunks of 256 KiB, of which these fill two packs and a part of a third one.
const CHUNK_BLOCKS: usize = 16 * 1024;
const CHUNKS: u64 = 540;

#[test]
fn filled_packs_are_indexed_together_whether_the_upload_is_left_behind_or_committed() {
    let fixture = fixture();
    let upload = UploadId::random();
    let list: Vec<u64> = (0..CHUNKS).collect();
    let names = names_of(&list);
    let mut client = Client::begin(&fixture.store, fixture.client, request(upload)).unwrap();
    for name in &names {
        client.upload.chunk(*name, &sealed(*name, client.key, CHUNK_BLOCKS)).unwrap();
    }
    assert_eq!(client.lacking(&names).unwrap(), [0_usize; 0], "what waits for its index is held");
    // Left behind.
    drop(client);
    assert_eq!(packs_of(&fixture.path()).len(), 3);
    let mut client = Client::begin(&fixture.store, fixture.client, request(upload)).unwrap();
    assert_eq!(client.lacking(&names).unwrap(), [0_usize; 0]);
    client.upload.list(&bytes_of(&names)).unwrap();
    client.upload.needs(list_id(&names).as_bytes()).unwrap();
    let head = client.commit().unwrap();
    // The third one was free to be added to.
    assert_eq!(packs_of(&fixture.path()).len(), 3);
    let fixture = fixture.reopen();
    let reader = fixture.store.read_vault(vault(), &READ_TOKEN).unwrap();
    let mut came = 0_u64;
    reader
        .chunks(&names, &mut |name, chunk| {
            let chunk = chunk.expect("it is held");
            assert!(chunk.name == *name && chunk.sealed == sealed(*name, chunk.key, CHUNK_BLOCKS));
            came += 1;
            true
        })
        .unwrap();
    assert_eq!(came, CHUNKS);
    assert_eq!(damage_of(&fixture.store, &head), Vec::<String>::new());
}
