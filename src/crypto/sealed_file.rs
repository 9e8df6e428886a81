//! Files sealed at rest: the bytes of `docs/store-format.md`, "Sealed files", and nothing of where they lie.
//!
//! A file is a header, whole segments of 16 KiB of plaintext, and one end that holds the rest and says how long all of
//! it is. Offsets in the plaintext give offsets in the file, so that any part is read by itself. The journal has another
//! form: records, one for each write.
//!
//! - The file's keys come from the storage key, the file's header, which holds a random id, and what the file is and
//!   whose: no two files share a key, a changed header opens nothing, and so does a file in another client's place.
//! - Each HMAC covers what the piece is (segment, end, hole, record) and its number, so that it is good in its place
//!   only; it is checked, in constant time, before anything is decrypted.
//! - Each piece has a fresh random IV, whoever writes it again.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use aes::cipher::array::Array;
use aes::cipher::{BlockModeDecrypt, InnerIvInit, KeyInit};
use aes::{Aes256Dec, Aes256Enc, Block};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::authenticator::{Authenticator, FRAMES_MAX, MAC_BYTES};
use super::error::{CryptoError, Damaged};
use super::lanes;
use super::secret::{Secret, constant_time_equal, fill_random, random_bytes};
use crate::base::zeros::resize_zeroed;

/// How a sealed file begins; a plain file of the store never does.
pub const SEALED_MAGIC: [u8; 8] = *b"\xcbcbkSEAL";
const VERSION: u32 = 1;
/// Magic, version, form, key id, file id.
pub const SEALED_HEADER_BYTES: usize = 8 + 4 + 4 + KEY_ID_BYTES + FILE_ID_BYTES;
const KEY_ID_BYTES: usize = 16;
const FILE_ID_BYTES: usize = 32;

/// Plaintext of a whole segment.
pub const SEALED_SEGMENT_BYTES: usize = 16 * 1024;
/// What a whole segment takes in the file.
pub const SEALED_SLOT_BYTES: usize = IV_BYTES + SEALED_SEGMENT_BYTES + MAC_BYTES;
/// Where in its slot a segment's text begins.
pub const SEALED_TEXT_START: usize = IV_BYTES;
/// What an end without any plaintext takes.
pub const SEALED_END_BYTES_MIN: usize = IV_BYTES + TOTAL_BYTES + MAC_BYTES;
/// What the marker of a hole takes.
pub const HOLE_MARKER_BYTES: usize = HOLE_BYTES + MAC_BYTES;
/// Most plaintext of a record.
pub const SEALED_RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a record takes beside its ciphertext.
pub const SEALED_RECORD_OVERHEAD: usize = RECORD_LENGTH_BYTES + IV_BYTES + MAC_BYTES;
/// The bytes of a record that tell its length.
pub const RECORD_LENGTH_BYTES: usize = 4;

const BLOCK_BYTES: usize = 16;
const IV_BYTES: usize = BLOCK_BYTES;
const TOTAL_BYTES: usize = 8;
/// What is covered in front of each piece: what it is, and its number.
const PREFIX_BYTES: usize = 1 + 8;
const HOLE_MAGIC: [u8; 8] = *b"cbkhole\0";
const HOLE_BYTES: usize = 16;

const KEY_ID_LABEL: &str = "cyberbackup at rest 1 key id";
const ENCRYPTION_LABEL: &str = "cyberbackup at rest 1 encryption";
const AUTHENTICATION_LABEL: &str = "cyberbackup at rest 1 authentication";

/// What a sealed file is to the store: its keys are good for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SealedKind {
    Content = 1,
    Delta = 2,
    Blocks = 3,
    Range = 4,
    Index = 5,
    Journal = 6,
    /// Bytes of an upload that wait for their turn.
    Waiting = 7,
    DamageList = 8,
}

/// What a sealed file is, and whose: what a client's folders are called.
#[derive(Clone, Copy, Debug)]
pub struct SealedPlace<'a> {
    pub kind: SealedKind,
    pub client: &'a str,
}

/// What an HMAC vouches for.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Piece {
    Segment = 1,
    End = 2,
    Hole = 3,
    Record = 4,
}

/// The name of a storage key, which tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = CryptoError;

    fn from_str(text: &str) -> Result<KeyId, CryptoError> {
        unhex(text).map(KeyId).ok_or(CryptoError::StorageKeyMalformed)
    }
}

/// The key that an operator keeps: all keys of a store's sealed files come from it.
pub struct StorageKey {
    secret: Secret<32>,
    id: KeyId,
}

impl StorageKey {
    /// A fresh key from the operating system.
    pub fn random() -> StorageKey {
        StorageKey::of(Secret::random())
    }

    /// The key of 32 zero bytes, which everybody knows: it hides nothing, and keeps apart what is sealed from what only
    /// looks so.
    pub fn null() -> StorageKey {
        StorageKey::of(Secret::from_bytes([0; 32]))
    }

    /// A key as its file has it: 64 hex digits, white space around them.
    ///
    /// # Errors
    /// [`CryptoError::StorageKeyMalformed`] for anything else.
    pub fn parse(text: &[u8]) -> Result<StorageKey, CryptoError> {
        let text = std::str::from_utf8(text).map_err(|_| CryptoError::StorageKeyMalformed)?;
        let bytes = unhex(text.trim()).map(Zeroizing::new).ok_or(CryptoError::StorageKeyMalformed)?;
        Ok(StorageKey::of(Secret::from_bytes(*bytes)))
    }

    fn of(secret: Secret<32>) -> StorageKey {
        let mut id = [0; KEY_ID_BYTES];
        expand_into(&Hkdf::new(None, secret.expose()), &[KEY_ID_LABEL.as_bytes()], &mut id);
        StorageKey { secret, id: KeyId(id) }
    }

    /// The key as [`StorageKey::parse`] takes it, with a line end.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * 32 + 1));
        for byte in self.secret.expose() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text.push('\n');
        text
    }

    pub fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StorageKey({})", self.id)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn expand_into(key: &Hkdf<Sha256>, info: &[&[u8]], out: &mut [u8]) {
    key.expand_multi_info(info, out).expect("so few bytes are one block of HKDF-SHA256");
}

/// How what follows the header is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SealedForm {
    Segments = 1,
    Records = 2,
}

/// The first bytes of a sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    bytes: [u8; SEALED_HEADER_BYTES],
    pub form: SealedForm,
    pub key: KeyId,
}

impl SealedHeader {
    /// The header of a new file, with an id of its own.
    pub fn create(form: SealedForm, key: KeyId) -> SealedHeader {
        SealedHeader::with_id(form, key, &random_bytes())
    }

    fn with_id(form: SealedForm, key: KeyId, id: &[u8; FILE_ID_BYTES]) -> SealedHeader {
        let mut bytes = [0; SEALED_HEADER_BYTES];
        let parts: [&[u8]; 5] = [&SEALED_MAGIC, &VERSION.to_le_bytes(), &(form as u32).to_le_bytes(), &key.0, id];
        let mut room = &mut bytes[..];
        for part in parts {
            let (taken, rest) = room.split_at_mut(part.len());
            taken.copy_from_slice(part);
            room = rest;
        }
        SealedHeader { bytes, form, key }
    }

    /// # Errors
    /// [`Damaged`] where it is none; the id of the key is whatever it is.
    pub fn decode(bytes: &[u8; SEALED_HEADER_BYTES]) -> Result<SealedHeader, Damaged> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let form = match word(12) {
            1 => SealedForm::Segments,
            2 => SealedForm::Records,
            _ => return Err(Damaged),
        };
        match bytes[..8] == SEALED_MAGIC && word(8) == VERSION {
            true => Ok(SealedHeader { bytes: *bytes, form, key: SealedHeader::key_of(bytes) }),
            false => Err(Damaged),
        }
    }

    /// What stands in the place of the key's id, whatever the rest is.
    pub fn key_of(bytes: &[u8; SEALED_HEADER_BYTES]) -> KeyId {
        KeyId(bytes[16..16 + KEY_ID_BYTES].try_into().expect("the id of a key"))
    }

    pub fn as_bytes(&self) -> &[u8; SEALED_HEADER_BYTES] {
        &self.bytes
    }
}

fn prefix(piece: Piece, number: u64) -> [u8; PREFIX_BYTES] {
    let mut prefix = [piece as u8; PREFIX_BYTES];
    prefix[1..].copy_from_slice(&number.to_le_bytes());
    prefix
}

/// The keys of one file.
pub struct SealedKeys {
    encryption: Aes256Enc,
    decryption: Aes256Dec,
    authentication: Authenticator,
}

impl fmt::Debug for SealedKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SealedKeys")
    }
}

impl SealedKeys {
    /// `key` is the one that the header names.
    pub fn derive(key: &StorageKey, header: &SealedHeader, place: SealedPlace<'_>) -> SealedKeys {
        let root = Hkdf::<Sha256>::new(Some(&header.bytes), key.secret.expose());
        let expand = |label: &str| {
            let info = [label.as_bytes(), &[place.kind as u8], place.client.as_bytes()];
            Secret::<32>::written_by(|bytes| expand_into(&root, &info, bytes))
        };
        let (encryption, authentication) = (expand(ENCRYPTION_LABEL), expand(AUTHENTICATION_LABEL));
        SealedKeys {
            encryption: Aes256Enc::new(encryption.expose().into()),
            decryption: Aes256Dec::new(encryption.expose().into()),
            authentication: Authenticator::without_prefix(authentication.expose()),
        }
    }

    fn code(&self, piece: Piece, number: u64, bytes: &[u8]) -> [u8; MAC_BYTES] {
        self.authentication.prefixed_codes(&[prefix(piece, number)], &[bytes])[0]
    }

    /// What comes before the HMAC at the end, if that fits it.
    fn verified<'a>(&self, piece: Piece, number: u64, bytes: &'a mut [u8]) -> Result<&'a mut [u8], Damaged> {
        let at = bytes.len().checked_sub(MAC_BYTES).ok_or(Damaged)?;
        let (body, code) = bytes.split_at_mut(at);
        match constant_time_equal(&self.code(piece, number, body), code) {
            true => Ok(body),
            false => Err(Damaged),
        }
    }

    /// Seals whole segments in place: `slots` holds one after the other as they lie in the file, each with its plaintext
    /// from [`SEALED_TEXT_START`] on; the first of them is number `first`. Several at a time are much faster.
    pub fn seal_segments(&self, slots: &mut [u8], first: u64) {
        let count = slots.len() / SEALED_SLOT_BYTES;
        let mut vectors = vec![[0; IV_BYTES]; count];
        fill_random(vectors.as_flattened_mut());
        self.seal_segments_with(&vectors, slots, first);
    }

    fn seal_segments_with(&self, vectors: &[[u8; IV_BYTES]], slots: &mut [u8], first: u64) {
        let texts: Vec<Range<usize>> = (0..vectors.len())
            .map(|slot| slot * SEALED_SLOT_BYTES + SEALED_TEXT_START)
            .map(|start| start..start + SEALED_SEGMENT_BYTES)
            .collect();
        for (text, vector) in texts.iter().zip(vectors) {
            slots[text.start - IV_BYTES..text.start].copy_from_slice(vector);
        }
        lanes::encrypt_cbc(&self.encryption, slots, &texts);
        let mut first = first;
        for slots in slots.chunks_mut(FRAMES_MAX * SEALED_SLOT_BYTES) {
            let count = slots.len() / SEALED_SLOT_BYTES;
            let (mut prefixes, mut bodies) = ([[0; PREFIX_BYTES]; FRAMES_MAX], [&[][..]; FRAMES_MAX]);
            for (index, slot) in slots.chunks_exact(SEALED_SLOT_BYTES).enumerate() {
                prefixes[index] = prefix(Piece::Segment, first + index as u64);
                bodies[index] = &slot[..SEALED_SLOT_BYTES - MAC_BYTES];
            }
            let codes = self.authentication.prefixed_codes(&prefixes[..count], &bodies[..count]);
            for (slot, code) in slots.chunks_exact_mut(SEALED_SLOT_BYTES).zip(codes) {
                slot[SEALED_SLOT_BYTES - MAC_BYTES..].copy_from_slice(&code);
            }
            first += count as u64;
        }
    }

    /// Opens a segment in place; its plaintext lies from [`SEALED_TEXT_START`] on then.
    ///
    /// # Errors
    /// [`Damaged`] where it does not verify as the one with this number; the slot is as it was.
    pub fn open_segment(&self, slot: &mut [u8], number: u64) -> Result<(), Damaged> {
        if slot.len() != SEALED_SLOT_BYTES {
            return Err(Damaged);
        }
        let body = self.verified(Piece::Segment, number, slot)?;
        self.decrypt(body);
        Ok(())
    }

    /// IV and ciphertext.
    fn decrypt(&self, body: &mut [u8]) {
        let (vector, text) = body.split_at_mut(IV_BYTES);
        let (blocks, _) = Block::slice_as_chunks_mut(text);
        let vector: [u8; IV_BYTES] = (&*vector).try_into().expect("an IV is one block");
        cbc::Decryptor::inner_iv_init(&self.decryption, &Array(vector)).decrypt_blocks(blocks);
    }

    /// Appends IV and ciphertext of `plaintext`, filled up with zeros to whole blocks.
    fn encrypt_onto(&self, vector: [u8; IV_BYTES], plaintext: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&vector);
        let start = out.len();
        out.extend_from_slice(plaintext);
        resize_zeroed(out, start + plaintext.len().next_multiple_of(BLOCK_BYTES));
        let end = out.len();
        if end > start {
            lanes::encrypt_cbc(&self.encryption, out, std::slice::from_ref(&(start..end)));
        }
    }

    /// Appends the end of a file of `segments` whole segments and `rest`, which is less than one.
    pub fn seal_end(&self, segments: u64, rest: &[u8], out: &mut Vec<u8>) {
        self.seal_end_with(random_bytes(), segments, rest, out);
    }

    fn seal_end_with(&self, vector: [u8; IV_BYTES], segments: u64, rest: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.encrypt_onto(vector, rest, out);
        let total = segments * SEALED_SEGMENT_BYTES as u64 + rest.len() as u64;
        out.extend_from_slice(&total.to_le_bytes());
        let code = self.code(Piece::End, segments, &out[start..]);
        out.extend_from_slice(&code);
    }

    /// Opens the end of a file of `segments` whole segments in place; gives where in it the rest of the plaintext lies.
    ///
    /// # Errors
    /// [`Damaged`] where it is not that file's end.
    pub fn open_end(&self, end: &mut [u8], segments: u64) -> Result<Range<usize>, Damaged> {
        if end.len() < SEALED_END_BYTES_MIN || !(end.len() - SEALED_END_BYTES_MIN).is_multiple_of(BLOCK_BYTES) {
            return Err(Damaged);
        }
        let body = self.verified(Piece::End, segments, end)?;
        let (body, total) = body.split_at_mut(body.len() - TOTAL_BYTES);
        let total = u64::from_le_bytes((&*total).try_into().expect("eight bytes"));
        let whole = segments.checked_mul(SEALED_SEGMENT_BYTES as u64).ok_or(Damaged)?;
        let rest = total.checked_sub(whole).filter(|rest| *rest < SEALED_SEGMENT_BYTES as u64).ok_or(Damaged)?;
        let rest = rest as usize;
        if rest.next_multiple_of(BLOCK_BYTES) != body.len() - IV_BYTES {
            return Err(Damaged);
        }
        self.decrypt(body);
        Ok(IV_BYTES..IV_BYTES + rest)
    }

    /// The marker of a hole of `count` segments from number `first` on.
    pub fn hole_marker(&self, first: u64, count: u64) -> [u8; HOLE_MARKER_BYTES] {
        let mut marker = [0; HOLE_MARKER_BYTES];
        marker[..8].copy_from_slice(&HOLE_MAGIC);
        marker[8..HOLE_BYTES].copy_from_slice(&count.to_le_bytes());
        let code = self.code(Piece::Hole, first, &marker[..HOLE_BYTES]);
        marker[HOLE_BYTES..].copy_from_slice(&code);
        marker
    }

    /// How many segments the hole has, by its marker at segment `first`.
    ///
    /// # Errors
    /// [`Damaged`] where there is no such marker.
    pub fn open_hole(&self, marker: &[u8; HOLE_MARKER_BYTES], first: u64) -> Result<u64, Damaged> {
        let mut marker = *marker;
        let body = self.verified(Piece::Hole, first, &mut marker)?;
        let (magic, count) = body.split_at(8);
        match magic == HOLE_MAGIC {
            true => Ok(u64::from_le_bytes(count[..].try_into().expect("eight bytes"))),
            false => Err(Damaged),
        }
    }

    /// Appends a record: at most [`SEALED_RECORD_BYTES_MAX`] of plaintext.
    pub fn seal_record(&self, number: u64, plaintext: &[u8], out: &mut Vec<u8>) {
        self.seal_record_with(random_bytes(), number, plaintext, out);
    }

    fn seal_record_with(&self, vector: [u8; IV_BYTES], number: u64, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let length = u32::try_from(plaintext.len()).expect("a record is far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        self.encrypt_onto(vector, plaintext, out);
        let code = self.code(Piece::Record, number, &out[start..]);
        out.extend_from_slice(&code);
    }

    /// How many bytes a record has that says it has so much plaintext; none where it cannot.
    pub fn record_bytes(length: [u8; RECORD_LENGTH_BYTES]) -> Option<usize> {
        let plaintext = u32::from_le_bytes(length) as usize;
        let fits = plaintext <= SEALED_RECORD_BYTES_MAX;
        fits.then(|| SEALED_RECORD_OVERHEAD + plaintext.next_multiple_of(BLOCK_BYTES))
    }

    /// Opens a record in place; gives where its plaintext lies.
    ///
    /// # Errors
    /// [`Damaged`] where it is not the one with this number.
    pub fn open_record(&self, record: &mut [u8], number: u64) -> Result<Range<usize>, Damaged> {
        let length = *record.first_chunk::<RECORD_LENGTH_BYTES>().ok_or(Damaged)?;
        if SealedKeys::record_bytes(length) != Some(record.len()) {
            return Err(Damaged);
        }
        let body = self.verified(Piece::Record, number, record)?;
        self.decrypt(&mut body[RECORD_LENGTH_BYTES..]);
        let start = RECORD_LENGTH_BYTES + IV_BYTES;
        Ok(start..start + u32::from_le_bytes(length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::checksum::blake3_hash;
    use super::super::test_support::{field, field_array, hex, read_vector, text, write_vector};
    use super::*;

    const VECTOR: &str = "sealed_file.json";

    /// Of the client that the vector names.
    fn place(kind: SealedKind) -> SealedPlace<'static> {
        SealedPlace { kind, client: "ada-00112233" }
    }

    /// Everything of the format, as the vector says it.
    fn describe(storage_key: &str, id: [u8; 32], vector: [u8; 16], rest: &[u8]) -> Value {
        let key = StorageKey::parse(storage_key.as_bytes()).expect("the vector has a key");
        let header = SealedHeader::with_id(SealedForm::Segments, key.id(), &id);
        let records = SealedHeader::with_id(SealedForm::Records, key.id(), &id);
        let keys = SealedKeys::derive(&key, &header, place(SealedKind::Content));
        let mut slot = vec![0; SEALED_SLOT_BYTES];
        slot[SEALED_TEXT_START..SEALED_TEXT_START + SEALED_SEGMENT_BYTES].copy_from_slice(&segment_text());
        keys.seal_segments_with(&[vector], &mut slot, 3);
        let (mut end, mut record) = (Vec::new(), Vec::new());
        keys.seal_end_with(vector, 4, rest, &mut end);
        let journal = SealedKeys::derive(&key, &records, place(SealedKind::Journal));
        journal.seal_record_with(vector, 7, rest, &mut record);
        json!({
            "client": place(SealedKind::Content).client, "kind": SealedKind::Content as u8,
            "records_kind": SealedKind::Journal as u8,
            "storage_key": storage_key, "file_id": hex(&id), "iv": hex(&vector), "rest": hex(rest),
            "key_id": key.id().to_string(), "header": hex(header.as_bytes()), "records_header": hex(records.as_bytes()),
            "segment_number": 3, "segment_blake3": hex(&blake3_hash(&slot)), "segment_end": hex(&slot[16_384..]),
            "segments_before_the_end": 4, "end": hex(&end),
            "hole_first": 8, "hole_segments": 7, "hole_marker": hex(&keys.hole_marker(8, 7)),
            "record_number": 7, "record": hex(&record),
        })
    }

    fn segment_text() -> Vec<u8> {
        (0..SEALED_SEGMENT_BYTES).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn the_vector_is_pinned_and_opens() {
        let vector = read_vector(VECTOR);
        let (key, rest) = (text(&vector, "storage_key"), field(&vector, "rest"));
        let found = describe(key, field_array(&vector, "file_id"), field_array(&vector, "iv"), &rest);
        assert_eq!(found, vector, "a change of these bytes is a change of the store's format");
        let key = StorageKey::parse(key.as_bytes()).unwrap();
        let header = SealedHeader::decode(&field_array(&vector, "header")).unwrap();
        assert_eq!((header.key, header.form), (key.id(), SealedForm::Segments));
        let keys = SealedKeys::derive(&key, &header, place(SealedKind::Content));
        let mut end = field(&vector, "end");
        let opened = keys.open_end(&mut end, 4).unwrap();
        assert_eq!(end[opened], rest);
        assert_eq!(keys.open_hole(&field_array(&vector, "hole_marker"), 8), Ok(7));
        let header = SealedHeader::decode(&field_array(&vector, "records_header")).unwrap();
        let mut record = field(&vector, "record");
        let opened =
            SealedKeys::derive(&key, &header, place(SealedKind::Journal)).open_record(&mut record, 7).unwrap();
        assert_eq!(record[opened], rest);
    }

    #[test]
    #[ignore = "rewrites a vector; only for a change of the store's format"]
    fn rewrite_sealed_file_vector() {
        let id = std::array::from_fn(|at| at as u8);
        write_vector(VECTOR, &describe(&"0123456789abcdef".repeat(4), id, [0xA5; 16], b"the rest of a file"));
    }

    #[test]
    fn a_piece_is_good_in_its_place_only() {
        let key = StorageKey::random();
        let header = SealedHeader::create(SealedForm::Segments, key.id());
        let keys = SealedKeys::derive(&key, &header, place(SealedKind::Content));
        let mut slots = vec![5; 2 * SEALED_SLOT_BYTES];
        keys.seal_segments(&mut slots, 10);
        let mut second = slots.split_off(SEALED_SLOT_BYTES);
        assert_eq!(keys.open_segment(&mut second, 10), Err(Damaged));
        assert_eq!(keys.open_segment(&mut slots, 10), Ok(()));
        assert_eq!(keys.open_segment(&mut second, 11), Ok(()));
        assert!(second[16..16 + SEALED_SEGMENT_BYTES].iter().all(|byte| *byte == 5));
        let (mut end, mut record) = (Vec::new(), Vec::new());
        keys.seal_end(2, b"", &mut end);
        assert_eq!((end.len(), keys.open_end(&mut end.clone(), 3)), (SEALED_END_BYTES_MIN, Err(Damaged)));
        assert_eq!(keys.open_end(&mut end, 2), Ok(16..16));
        keys.seal_record(0, b"record", &mut record);
        assert_eq!(keys.open_record(&mut record.clone(), 1), Err(Damaged));
        assert_eq!(keys.open_hole(&keys.hole_marker(4, 2), 8), Err(Damaged));
        let other_header = SealedHeader::create(SealedForm::Segments, key.id());
        let elsewhere = [
            (other_header, place(SealedKind::Content)),
            (header, place(SealedKind::Delta)),
            (header, SealedPlace { kind: SealedKind::Content, client: "ada-00112234" }),
        ];
        for (header, place) in elsewhere {
            let other = SealedKeys::derive(&key, &header, place);
            assert_eq!(other.open_record(&mut record.clone(), 0), Err(Damaged), "{place:?}");
        }
        assert_eq!(keys.open_record(&mut record, 0), Ok(20..26));
    }

    #[test]
    fn a_storage_key_is_64_hex_digits_and_nothing_else_and_prints_nothing() {
        let key = StorageKey::random();
        assert_eq!(StorageKey::parse(key.text().as_bytes()).unwrap().id(), key.id());
        assert_eq!(format!("{key:?}"), format!("StorageKey({})", key.id()));
        assert_eq!(key.id().to_string().parse::<KeyId>().unwrap(), key.id());
        for bad in ["", "12", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert!(StorageKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
