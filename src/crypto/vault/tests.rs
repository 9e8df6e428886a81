//! The bytes of a vault, pinned; and what a changed one does.

use serde_json::{Value, json};

use super::super::checksum::blake3_hash;
use super::super::rsa_keys::KEY_BITS_MIN;
use super::super::secret::fill_random;
use super::super::test_support::{field, field_array, hex, read_vector, write_vector};
use super::chunk::{SEALED_CHUNK_OVERHEAD, padded};
use super::key_file::OpenKeyError;
use super::*;
use crate::base::limits::VAULT_CHUNK_BYTES_MAX;
use crate::base::path::EntryPath;

const VECTOR: &str = "vault.json";
const PASSPHRASE: &[u8] = b"correct horse";

/// A small key, made at once.
fn small_key() -> FullKey {
    let private = PrivateKey::generate(KEY_BITS_MIN).expect("1,024 bits are accepted");
    let token = Secret::random();
    let (public, verifier) = (private.public().clone(), token_hash(token.expose()));
    let put = PutKey::new(VaultId::random(), public, Secret::random(), Secret::random(), verifier);
    FullKey { put, private, read_token: token }
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b"a text that repeats itself"[at % 26] ^ (at / 2_600) as u8 & 7).collect()
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    fill_random(&mut random);
    random
}

/// Opens a chunk that came alone.
fn open(put: &PutKey, key: &DataKey, kind: ChunkKind, name: ChunkName, sealed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut chunk = SealedChunk::new(name, key.id(), sealed.to_vec());
    authenticate(put, &mut [&mut chunk]);
    ChunkOpener::new().open(put, key, kind, &mut chunk).map(<[u8]>::to_vec)
}

/// Everything of the format, as the vector says it: from what is fixed to what follows.
fn describe(private: &[u8], salt: [u8; 16], vector: [u8; 16], wrapped: &[u8]) -> Value {
    let private = PrivateKey::from_pkcs8_der(private).expect("the vector has a key");
    let counted = |from: u8| Secret::from_bytes(std::array::from_fn(|at| from + at as u8));
    let vault = VaultId::from_bytes(std::array::from_fn(|at| at as u8));
    let token = counted(0x80);
    let verifier = token_hash(token.expose());
    let put = PutKey::new(vault, private.public().clone(), counted(0x20), counted(0x40), verifier);
    let full = FullKey { put, private, read_token: token };
    let put = full.put();
    let data_key = full.open_data_key(data_key_id(wrapped), wrapped).expect("the id is of these bytes");
    let chunks = [&b"as it is"[..], &text(1_000)];
    let plain = chunks.map(|bytes| PlainChunk { name: put.name(ChunkKind::Content, bytes), bytes });
    let mut sealed = Vec::new();
    let places = ChunkSealer::new().seal_with(&[vector; 2], put, &data_key, &plain, 0, &mut sealed);
    let names = [ChunkKind::Content, ChunkKind::Metadata, ChunkKind::Head].map(|kind| put.name(kind, b"as it is"));
    let roots = [&b"home/ada"[..], b"srv"].map(|path| EntryPath::parse(path).expect("a good path"));
    let sets = [&[][..], &roots].map(|roots| put.root_set(roots));
    let gear = put.gear();
    let gear_bytes: Vec<u8> = gear.iter().flat_map(|word| word.to_le_bytes()).collect();
    json!({
        "private_key": hex(&full.private.to_pkcs8_der().expect("a good key")), "salt": hex(&salt), "iv": hex(&vector),
        "put_key_file": hex(&put.to_file()), "passphrase": String::from_utf8_lossy(PASSPHRASE),
        "key_file": hex(&full.to_file_with(salt, vector, PASSPHRASE, PassphraseCost::LEAST).expect("memory")),
        "write_token": hex(put.write_token()), "gear_first": gear[0],
        "gear_blake3": hex(&blake3_hash(&gear_bytes)),
        "wrapped": hex(wrapped), "data_key_id": data_key.id().to_string(),
        "names": names.map(|name| name.to_string()), "list_id": list_id(&names).to_string(),
        "root_sets": sets.map(|set| set.to_string()),
        "sealed": hex(&sealed[places[0].clone()]), "sealed_deflated": hex(&sealed[places[1].clone()]),
        "deflated_plaintext": hex(&text(1_000)),
        "head_hash": hex(&head_hash(names[2], data_key.id(), b"sealed head")),
    })
}

#[test]
fn the_vector_is_pinned_and_opens() {
    let vector = read_vector(VECTOR);
    let (private, wrapped) = (field(&vector, "private_key"), field(&vector, "wrapped"));
    let found = describe(&private, field_array(&vector, "salt"), field_array(&vector, "iv"), &wrapped);
    assert_eq!(found, vector, "a change of these bytes is a change of the vault's format");
    let key = FullKey::from_file(&field(&vector, "key_file"), PASSPHRASE).expect("the vector opens");
    assert_eq!(key.put().to_file()[..], field(&vector, "put_key_file"));
    let data_key = key.open_data_key(data_key_id(&wrapped), &wrapped).unwrap();
    let name = key.put().name(ChunkKind::Content, &text(1_000));
    let sealed = field(&vector, "sealed_deflated");
    assert_eq!(open(key.put(), &data_key, ChunkKind::Content, name, &sealed), Ok(text(1_000)));
}

#[test]
#[ignore = "rewrites a vector; only for a change of the vault's format"]
fn rewrite_vault_vector() {
    let key = small_key();
    let private = key.private.to_pkcs8_der().unwrap();
    let wrapped =
        key.private.public().seal_secret(OaepLabel::VaultDataKey, &Secret::from_bytes([0x5C; 32])).unwrap();
    write_vector(VECTOR, &describe(&private, [0x33; 16], [0xA5; 16], &wrapped));
}

#[test]
fn equal_roots_of_one_vault_are_one_set_and_others_are_not() {
    let paths = |roots: &[&str]| -> Vec<EntryPath> {
        roots.iter().map(|root| EntryPath::parse(root.as_bytes()).unwrap()).collect()
    };
    let (key, other) = (small_key().into_put(), small_key().into_put());
    let roots = paths(&["a", "b/c"]);
    assert_eq!(key.root_set(&roots), key.root_set(&paths(&["a", "b/c"])));
    assert_ne!(key.root_set(&roots), other.root_set(&roots), "nobody without the key can tell");
    for others in [&[][..], &["a"], &["b/c"], &["ab", "c"], &["a", "b", "c"]] {
        assert_ne!(key.root_set(&roots), key.root_set(&paths(others)), "{others:?}");
    }
}

#[test]
fn chunks_of_every_size_come_back() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    let kept = key.open_data_key(data_key.id(), data_key.wrapped()).unwrap();
    let sizes = [0, 1, 10, 16 * 1024, 44_000, 70_000, VAULT_CHUNK_BYTES_MAX];
    let bytes: Vec<Vec<u8>> = sizes.iter().flat_map(|&size| [text(size), random(size)]).collect();
    let name = |bytes: &[u8]| key.put().name(ChunkKind::Metadata, bytes);
    let chunks: Vec<PlainChunk<'_>> = bytes.iter().map(|bytes| PlainChunk { name: name(bytes), bytes }).collect();
    let mut sealed = b"before".to_vec();
    let places = ChunkSealer::new().seal(key.put(), &data_key, &chunks, 3, &mut sealed);
    assert_eq!((places[0].start, places.len()), (6 + 3, chunks.len()));
    for (chunk, place) in chunks.iter().zip(places) {
        assert_eq!(sealed[place.start - 3..place.start], [0; 3]);
        let sealed = &sealed[place];
        assert!(sealed_crc_is_right(chunk.name, data_key.id(), sealed));
        let plain = open(key.put(), &kept, ChunkKind::Metadata, chunk.name, sealed);
        assert!(plain.as_deref() == Ok(chunk.bytes), "{} bytes", chunk.bytes.len());
        assert_eq!(open(key.put(), &kept, ChunkKind::Content, chunk.name, sealed), Err(Damaged));
    }
}

#[test]
fn of_chunks_that_are_authenticated_together_each_stands_for_itself() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    let bytes: Vec<Vec<u8>> = (0..40).map(|index| random(index * 997 % 5_000)).collect();
    let name = |bytes: &[u8]| key.put().name(ChunkKind::Content, bytes);
    let plain: Vec<PlainChunk<'_>> = bytes.iter().map(|bytes| PlainChunk { name: name(bytes), bytes }).collect();
    let mut sealed = Vec::new();
    let places = ChunkSealer::new().seal(key.put(), &data_key, &plain, 0, &mut sealed);
    let is_harmed = |index: usize| index % 7 == 3;
    let mut chunks: Vec<SealedChunk> = places
        .into_iter()
        .zip(&plain)
        .enumerate()
        .map(|(index, (place, plain))| {
            let mut bytes = sealed[place].to_vec();
            match index % 3 {
                // A torn one, and one whose CRC32 is right and whose HMAC is not.
                0 if is_harmed(index) => bytes.truncate(index),
                _ if is_harmed(index) => {
                    bytes[index] ^= 1;
                    refit_crc(&mut bytes, plain.name, data_key.id());
                }
                _ => {}
            }
            SealedChunk::new(plain.name, data_key.id(), bytes)
        })
        .collect();
    let mut opener = ChunkOpener::new();
    assert_eq!(opener.open(key.put(), &data_key, ChunkKind::Content, &mut chunks[0]), Err(Damaged), "unchecked");
    authenticate(key.put(), &mut chunks.iter_mut().collect::<Vec<_>>());
    for (index, (chunk, plain)) in chunks.iter_mut().zip(&plain).enumerate() {
        assert!(chunk.is_checked());
        let opened = opener.open(key.put(), &data_key, ChunkKind::Content, chunk);
        assert_eq!(opened, if is_harmed(index) { Err(Damaged) } else { Ok(plain.bytes) }, "chunk {index}");
        assert_eq!(opener.open(key.put(), &data_key, ChunkKind::Content, chunk), Err(Damaged), "opened twice");
    }
}

#[test]
fn a_head_may_be_long_and_nothing_else() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    let bytes = random(VAULT_CHUNK_BYTES_MAX + 20_000);
    for (kind, opens) in [(ChunkKind::Head, true), (ChunkKind::Content, false)] {
        let chunk = PlainChunk { name: key.put().name(kind, &bytes), bytes: &bytes };
        let mut sealed = Vec::new();
        ChunkSealer::new().seal(key.put(), &data_key, &[chunk], 0, &mut sealed);
        assert_eq!(open(key.put(), &data_key, kind, chunk.name, &sealed).is_ok(), opens);
    }
}

#[test]
fn a_flipped_bit_a_cut_and_another_name_key_or_vault_open_nothing() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    let bytes = text(300);
    let chunk = PlainChunk { name: key.put().name(ChunkKind::Content, &bytes), bytes: &bytes };
    let mut sealed = Vec::new();
    ChunkSealer::new().seal(key.put(), &data_key, &[chunk], 0, &mut sealed);
    let open = |put: &PutKey, key: &DataKey, name, sealed: &[u8]| {
        self::open(put, key, ChunkKind::Content, name, sealed).map(drop)
    };
    assert_eq!(open(key.put(), &data_key, chunk.name, &sealed), Ok(()));
    for at in 0..sealed.len() {
        sealed[at] ^= 1 << (at % 8);
        assert!(!sealed_crc_is_right(chunk.name, data_key.id(), &sealed));
        // The CRC32 is no secret: made to fit, it must not be what protects the rest.
        let mut fitted = sealed.clone();
        refit_crc(&mut fitted, chunk.name, data_key.id());
        assert_eq!(open(key.put(), &data_key, chunk.name, &sealed), Err(Damaged));
        assert_eq!(open(key.put(), &data_key, chunk.name, &fitted).is_ok(), at >= sealed.len() - 4);
        sealed[at] ^= 1 << (at % 8);
    }
    (0..sealed.len()).for_each(|end| assert!(open(key.put(), &data_key, chunk.name, &sealed[..end]).is_err()));
    let other_name = key.put().name(ChunkKind::Content, b"other");
    refit_crc(&mut sealed, other_name, data_key.id());
    assert_eq!(open(key.put(), &data_key, other_name, &sealed), Err(Damaged));
    let other_key = key.put().create_data_key().unwrap();
    refit_crc(&mut sealed, chunk.name, other_key.id());
    assert_eq!(open(key.put(), &other_key, chunk.name, &sealed), Err(Damaged));
    assert_eq!(open(small_key().put(), &data_key, chunk.name, &sealed), Err(Damaged));
    assert_eq!(key.open_data_key(other_key.id(), data_key.wrapped()).err(), Some(Damaged));
}

fn refit_crc(sealed: &mut [u8], name: ChunkName, key: DataKeyId) {
    let at = sealed.len() - 4;
    let covered = [name.as_bytes(), &key.as_bytes()[..], &sealed[..at]].concat();
    sealed[at..].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
}

#[test]
fn a_plaintext_that_is_not_what_the_name_says_is_damaged() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    let chunk = PlainChunk { name: key.put().name(ChunkKind::Content, b"one"), bytes: b"another" };
    let mut sealed = Vec::new();
    ChunkSealer::new().seal(key.put(), &data_key, &[chunk], 0, &mut sealed);
    assert_eq!(open(key.put(), &data_key, ChunkKind::Content, chunk.name, &sealed), Err(Damaged));
}

#[test]
fn lengths_are_few_and_at_most_a_thirty_second_longer() {
    for bytes in 1..300_000 {
        let padded = padded(bytes);
        assert!(padded >= bytes && padded.is_multiple_of(16));
        assert!(padded - bytes < 16 || (padded - bytes) * 32 <= bytes, "{bytes}: {padded}");
    }
    let lengths: std::collections::BTreeSet<usize> = (16_384..262_144).map(padded).collect();
    assert!(lengths.len() <= 4 * 32 + 1, "{}", lengths.len());
    assert_eq!(SEALED_CHUNK_OVERHEAD, 52);
}

#[test]
fn key_files_open_with_their_passphrase_only() {
    let key = small_key();
    let mut file = key.to_file(PASSPHRASE, PassphraseCost::LEAST).unwrap();
    assert_eq!(FullKey::vault_of_file(&file), Some(key.put().vault()));
    let opened = FullKey::from_file(&file, PASSPHRASE).unwrap();
    assert_eq!(opened.read_token(), key.read_token());
    assert_eq!(opened.put().to_file(), key.put().to_file());
    assert_eq!(format!("{opened:?}"), format!("FullKey({})", key.put().vault()));
    assert_eq!(FullKey::from_file(&file, b"wrong").err(), Some(OpenKeyError::Wrong));
    let end = file.len() - 1;
    for at in [13, 40, 60, 70, 200, end] {
        file[at] ^= 4;
        assert_eq!(FullKey::from_file(&file, PASSPHRASE).err(), Some(OpenKeyError::Wrong), "byte {at}");
        file[at] ^= 4;
    }
    for at in [0, 8, 35] {
        file[at] ^= 0x80;
        let refused = FullKey::from_file(&file, PASSPHRASE).err();
        assert_eq!(refused, Some(OpenKeyError::Crypto(CryptoError::VaultKeyMalformed)), "byte {at}");
        file[at] ^= 0x80;
    }
    assert!(FullKey::from_file(&file[..40], PASSPHRASE).is_err());
    assert!(FullKey::from_file(&key.put().to_file(), PASSPHRASE).is_err());
    let much = PassphraseCost { kib: 2 * 1024 * 1024, passes: 3 };
    assert!(key.to_file(PASSPHRASE, much).is_err());
}

#[test]
fn put_key_files_are_whole_or_refused() {
    let key = small_key();
    let file = key.put().to_file();
    assert!(is_put_key_file(&file));
    assert_eq!(PutKey::from_file(&file).unwrap().write_token(), key.put().write_token());
    for at in 0..file.len() {
        let mut changed = file.to_vec();
        changed[at] ^= 1;
        assert_eq!(PutKey::from_file(&changed).err(), Some(CryptoError::VaultKeyMalformed), "byte {at}");
        assert!(PutKey::from_file(&file[..at]).is_err());
    }
}

#[test]
#[ignore = "prints speeds; run it in a release build on a quiet machine"]
fn speeds() {
    let key = small_key();
    let data_key = key.put().create_data_key().unwrap();
    for (what, bytes) in [("random", random(44 * 1024 * 24)), ("text", real_text(44 * 1024 * 24))] {
        let names: Vec<ChunkName> =
            bytes.chunks(44 * 1024).map(|bytes| key.put().name(ChunkKind::Content, bytes)).collect();
        // Lengths differ as those of cut contents do.
        let chunks: Vec<PlainChunk<'_>> = bytes
            .chunks(44 * 1024)
            .zip(&names)
            .enumerate()
            .map(|(index, (bytes, &name))| PlainChunk { name, bytes: &bytes[..bytes.len() - index * 1_500] })
            .collect();
        let total: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let (mut sealer, mut sealed) = (ChunkSealer::new(), Vec::new());
        let mut places = Vec::new();
        let start = std::time::Instant::now();
        for _ in 0..100 {
            sealed.clear();
            places = sealer.seal(key.put(), &data_key, &chunks, 0, &mut sealed);
        }
        let rate = |start: std::time::Instant| (100 * total) as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{what}: sealed at {:.2} GB/s, to {} of {total} bytes", rate(start), sealed.len());
        let mut opener = ChunkOpener::new();
        let start = std::time::Instant::now();
        for _ in 0..100 {
            let came = chunks.iter().zip(&places);
            let mut came: Vec<SealedChunk> = came
                .map(|(chunk, place)| SealedChunk::new(chunk.name, data_key.id(), sealed[place.clone()].to_vec()))
                .collect();
            authenticate(key.put(), &mut came.iter_mut().collect::<Vec<_>>());
            for chunk in &mut came {
                opener.open(key.put(), &data_key, ChunkKind::Content, chunk).expect("it was sealed for this");
            }
        }
        println!("{what}: opened at {:.2} GB/s", rate(start));
    }
}

/// What people keep: lines of source.
fn real_text(bytes: usize) -> Vec<u8> {
    let source = concat!(
        include_str!("chunk.rs"),
        include_str!("tests.rs"),
        include_str!("key_file.rs"),
        include_str!("../segment.rs")
    );
    source.bytes().cycle().take(bytes).collect()
}
