//! A chunk, sealed: `IV [16] ‖ AES-256-CBC(body) ‖ HMAC-SHA256 [32] ‖ CRC32 u32`.
//!
//! The body is `method u8 ‖ payload length u32 ‖ payload ‖ zeros`, so long that PKCS#7 adds exactly one byte and the
//! ciphertext has a length that is one of few ([`padded`]): the server learns a chunk's size to about 3 %. The HMAC
//! covers name, data key id, IV and ciphertext; it is checked, in constant time, before anything is decrypted. The CRC32
//! covers the HMAC too, and is for the server, which holds no key and must find damage nevertheless.

use std::ops::Range;

use super::super::authenticator::{Code, FRAMES_MAX, MAC_BYTES};
use super::super::checksum::crc32;
use super::super::error::Damaged;
use super::super::lanes;
use super::super::secret::{constant_time_equal, fill_random};
use super::deflate::{Compressor, Expander};
use super::{ChunkKind, DataKey, PutKey};
use crate::base::limits::{VAULT_CHUNK_BYTES_MAX, VAULT_HEAD_BYTES_MAX};
use crate::base::vault::{ChunkName, DataKeyId};
use crate::base::zeros::resize_zeroed;

const BLOCK_BYTES: usize = 16;
const IV_BYTES: usize = BLOCK_BYTES;
const CRC_BYTES: usize = 4;
/// Method and length of the payload.
const BODY_HEADER_BYTES: usize = 1 + 4;
/// What is covered and not sent with the chunk itself: its name and the id of its data key.
const PREFIX_BYTES: usize = ChunkName::BYTES + 16;
/// The one byte that PKCS#7 adds to a body that is one short of whole blocks.
const PADDING: u8 = 1;

const AS_IT_IS: u8 = 0;
const DEFLATED: u8 = 1;

/// What a chunk takes beside its ciphertext.
pub const SEALED_CHUNK_OVERHEAD: usize = IV_BYTES + MAC_BYTES + CRC_BYTES;

impl ChunkKind {
    /// Most plaintext of such a chunk.
    pub fn bytes_max(self) -> usize {
        match self {
            ChunkKind::Content | ChunkKind::Metadata => VAULT_CHUNK_BYTES_MAX,
            ChunkKind::Head => VAULT_HEAD_BYTES_MAX,
        }
    }
}

/// What a ciphertext for so many bytes takes: the next multiple of 1/32 of the greatest power of two within it, and of
/// a block.
pub fn padded(bytes: usize) -> usize {
    let power = 1 << bytes.max(1).ilog2();
    bytes.next_multiple_of((power / 32).max(BLOCK_BYTES))
}

/// A chunk to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct PlainChunk<'a> {
    /// What [`PutKey::name`] says of the bytes.
    pub name: ChunkName,
    pub bytes: &'a [u8],
}

/// Seals chunks: one for each thread that does.
pub struct ChunkSealer {
    compressor: Compressor,
}

impl Default for ChunkSealer {
    fn default() -> ChunkSealer {
        ChunkSealer::new()
    }
}

impl ChunkSealer {
    pub fn new() -> ChunkSealer {
        ChunkSealer { compressor: Compressor::new() }
    }

    /// Appends the sealed chunks to `out`, each behind `room` zeros for whoever frames it, and says where each one lies.
    /// Some ten at a time are much faster than one, and a mebibyte of them is enough.
    pub fn seal(
        &mut self,
        vault: &PutKey,
        key: &DataKey,
        chunks: &[PlainChunk<'_>],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Vec<Range<usize>> {
        let mut vectors = vec![[0; IV_BYTES]; chunks.len()];
        fill_random(vectors.as_flattened_mut());
        self.seal_with(&vectors, vault, key, chunks, room, out)
    }

    pub(super) fn seal_with(
        &mut self,
        vectors: &[[u8; IV_BYTES]],
        vault: &PutKey,
        key: &DataKey,
        chunks: &[PlainChunk<'_>],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Vec<Range<usize>> {
        let mut places = Vec::with_capacity(chunks.len());
        for (chunk, vector) in chunks.iter().zip(vectors) {
            let start = out.len() + room;
            resize_zeroed(out, start);
            out.extend_from_slice(vector);
            self.append_body(chunk.bytes, out);
            resize_zeroed(out, out.len() + MAC_BYTES + CRC_BYTES);
            places.push(start..out.len());
        }
        let texts: Vec<Range<usize>> =
            places.iter().map(|place| place.start + IV_BYTES..place.end - MAC_BYTES - CRC_BYTES).collect();
        lanes::encrypt_cbc(&key.encryption, out, &texts);
        write_codes(vault, key.id, chunks, &places, out);
        places
    }

    /// Appends the plaintext as it is encrypted, padding and all.
    fn append_body(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; BODY_HEADER_BYTES]);
        let method = if self.compressor.append(plaintext, out) {
            DEFLATED
        } else {
            out.extend_from_slice(plaintext);
            AS_IT_IS
        };
        let length = out.len() - start - BODY_HEADER_BYTES;
        out[start] = method;
        out[start + 1..][..4].copy_from_slice(&u32::try_from(length).expect("at most a mebibyte").to_le_bytes());
        resize_zeroed(out, start + padded(BODY_HEADER_BYTES + length + 1) - 1);
        out.push(PADDING);
    }
}

/// Writes HMAC and CRC32 of chunks that are encrypted already, in the order of their lengths, so that those that are
/// hashed side by side are about as long as each other.
fn write_codes(vault: &PutKey, key: DataKeyId, chunks: &[PlainChunk<'_>], places: &[Range<usize>], out: &mut [u8]) {
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_unstable_by_key(|&index| places[index].len());
    for group in order.chunks(FRAMES_MAX) {
        let (mut prefixes, mut frames) = ([[0; PREFIX_BYTES]; FRAMES_MAX], [&[][..]; FRAMES_MAX]);
        for (slot, &index) in group.iter().enumerate() {
            prefixes[slot] = prefix(chunks[index].name, key);
            frames[slot] = &out[places[index].start..places[index].end - MAC_BYTES - CRC_BYTES];
        }
        let codes = vault.authenticator.codes_of_rising(&prefixes[..group.len()], &frames[..group.len()]);
        for (&index, code) in group.iter().zip(codes) {
            write_end(&mut out[places[index].clone()], chunks[index].name, key, &code);
        }
    }
}

fn write_end(sealed: &mut [u8], name: ChunkName, key: DataKeyId, code: &Code) {
    let crc_at = sealed.len() - CRC_BYTES;
    sealed[crc_at - MAC_BYTES..crc_at].copy_from_slice(code);
    let crc = crc_of(name, key, &sealed[..crc_at]);
    sealed[crc_at..].copy_from_slice(&crc.to_le_bytes());
}

fn prefix(name: ChunkName, key: DataKeyId) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..ChunkName::BYTES].copy_from_slice(name.as_bytes());
    prefix[ChunkName::BYTES..].copy_from_slice(key.as_bytes());
    prefix
}

fn crc_of(name: ChunkName, key: DataKeyId, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial_len(crc32(&prefix(name, key)), PREFIX_BYTES as u64);
    hasher.update(covered);
    hasher.finalize()
}

/// Whether a sealed chunk is what was stored under this name and this data key, as far as that can be told without any
/// key of the vault.
pub fn sealed_crc_is_right(name: ChunkName, key: DataKeyId, sealed: &[u8]) -> bool {
    match sealed.split_last_chunk::<CRC_BYTES>() {
        Some((covered, crc)) => {
            covered.len() >= IV_BYTES + BLOCK_BYTES + MAC_BYTES
                && crc_of(name, key, covered) == u32::from_le_bytes(*crc)
        }
        None => false,
    }
}

/// A sealed chunk that came from outside, as it lies in memory.
#[derive(Debug)]
pub struct SealedChunk {
    /// What was asked for.
    pub name: ChunkName,
    /// The data key that it is said to be sealed under.
    pub key: DataKeyId,
    bytes: Vec<u8>,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unchecked,
    Authentic,
    Forged,
}

impl SealedChunk {
    pub fn new(name: ChunkName, key: DataKeyId, bytes: Vec<u8>) -> SealedChunk {
        SealedChunk { name, key, bytes, standing: Standing::Unchecked }
    }

    pub fn is_checked(&self) -> bool {
        self.standing != Standing::Unchecked
    }

    /// Bytes of it, sealed.
    pub fn sealed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its buffer, for another one.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// What its HMAC covers besides name and data key; none where it cannot be one, or its CRC32 is wrong.
    fn frame(&self) -> Option<&[u8]> {
        let text_bytes = self.bytes.len().checked_sub(SEALED_CHUNK_OVERHEAD)?;
        let is_possible = text_bytes > 0
            && text_bytes.is_multiple_of(BLOCK_BYTES)
            && sealed_crc_is_right(self.name, self.key, &self.bytes);
        is_possible.then(|| &self.bytes[..IV_BYTES + text_bytes])
    }
}

/// Compares the HMACs of chunks, side by side: up to sixteen at a time are much faster than one. Only a chunk with the
/// right one can be opened.
pub fn authenticate(vault: &PutKey, chunks: &mut [&mut SealedChunk]) {
    chunks.sort_by_key(|chunk| chunk.bytes.len());
    for group in chunks.chunks_mut(FRAMES_MAX) {
        let (mut prefixes, mut frames) = ([[0; PREFIX_BYTES]; FRAMES_MAX], [&[][..]; FRAMES_MAX]);
        let (mut members, mut is_right) = ([0; FRAMES_MAX], [false; FRAMES_MAX]);
        let mut count = 0;
        for (member, chunk) in group.iter().enumerate() {
            if let Some(frame) = chunk.frame() {
                (prefixes[count], frames[count]) = (prefix(chunk.name, chunk.key), frame);
                members[count] = member;
                count += 1;
            }
        }
        let codes = vault.authenticator.codes_of_rising(&prefixes[..count], &frames[..count]);
        for ((member, frame), code) in members[..count].iter().zip(&frames).zip(&codes) {
            let own = &group[*member].bytes[frame.len()..][..MAC_BYTES];
            is_right[*member] = constant_time_equal(code, own);
        }
        for (chunk, is_right) in group.iter_mut().zip(is_right) {
            chunk.standing = if is_right { Standing::Authentic } else { Standing::Forged };
        }
    }
}

/// Opens chunks: one for each thread that does.
pub struct ChunkOpener {
    expander: Expander,
    expanded: Vec<u8>,
}

impl Default for ChunkOpener {
    fn default() -> ChunkOpener {
        ChunkOpener::new()
    }
}

impl ChunkOpener {
    pub fn new() -> ChunkOpener {
        ChunkOpener { expander: Expander::new(), expanded: Vec::new() }
    }

    /// The plaintext of a chunk that is authentic: it is decrypted where it lies, and so opened once.
    ///
    /// # Errors
    /// [`Damaged`] where it has not been found to be what was sealed under its name and this key.
    pub fn open<'a>(
        &'a mut self,
        vault: &PutKey,
        key: &DataKey,
        kind: ChunkKind,
        chunk: &'a mut SealedChunk,
    ) -> Result<&'a [u8], Damaged> {
        if chunk.standing != Standing::Authentic || chunk.key != key.id {
            return Err(Damaged);
        }
        chunk.standing = Standing::Forged;
        let text_bytes = chunk.bytes.len().checked_sub(SEALED_CHUNK_OVERHEAD).ok_or(Damaged)?;
        if text_bytes > padded(BODY_HEADER_BYTES + kind.bytes_max() + 1) {
            return Err(Damaged);
        }
        let (vector, rest) = chunk.bytes.split_first_chunk_mut::<IV_BYTES>().ok_or(Damaged)?;
        let text = &mut rest[..text_bytes];
        lanes::decrypt_cbc(&key.decryption, vector, text);
        let (method, payload) = payload_of(text)?;
        let plaintext = match method {
            AS_IT_IS if payload.len() <= kind.bytes_max() => payload,
            DEFLATED => {
                self.expander.expand(payload, kind.bytes_max(), &mut self.expanded)?;
                &self.expanded
            }
            _ => return Err(Damaged),
        };
        match vault.name(kind, plaintext) == chunk.name {
            true => Ok(plaintext),
            false => Err(Damaged),
        }
    }
}

/// Method and payload of a decrypted body.
fn payload_of(body: &[u8]) -> Result<(u8, &[u8]), Damaged> {
    let (header, rest) = body.split_first_chunk::<BODY_HEADER_BYTES>().ok_or(Damaged)?;
    let [method, length @ ..] = *header;
    let length = u32::from_le_bytes(length) as usize;
    if length >= rest.len() || padded(BODY_HEADER_BYTES + length + 1) != body.len() {
        return Err(Damaged);
    }
    let (payload, padding) = rest.split_at(length);
    match padding.split_last() {
        Some((&PADDING, zeros)) if zeros.iter().all(|byte| *byte == 0) => Ok((method, payload)),
        _ => Err(Damaged),
    }
}
