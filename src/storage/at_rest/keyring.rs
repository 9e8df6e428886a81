//! The storage keys that a process holds, and what it may find in the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::reader::shape;
use super::writer::seal_whole;
use super::{SEGMENT, unsealable};
use crate::crypto::sealed_file::{SEALED_END_BYTES_MIN, SEALED_HEADER_BYTES, SEALED_MAGIC};
use crate::crypto::{KeyId, SealedForm, SealedHeader, SealedKeys, SealedKind, SealedPlace, StorageKey};
use crate::storage::layout::ClientFolder;

/// Cheap to clone; prints no key.
#[derive(Debug, Clone)]
pub struct Keyring {
    ring: Arc<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// What is new is sealed with it.
    writing: Option<Arc<StorageKey>>,
    /// What else may be found.
    reading: Vec<Arc<StorageKey>>,
    null: StorageKey,
    /// Files that are not sealed may be found, and those sealed with the null key.
    allows_plain: bool,
}

impl Keyring {
    /// For a store that is not sealed.
    pub fn plain() -> Keyring {
        Keyring::new(None, Vec::new(), true)
    }

    pub fn new(writing: Option<Arc<StorageKey>>, reading: Vec<Arc<StorageKey>>, allows_plain: bool) -> Keyring {
        Keyring { ring: Arc::new(Ring { writing, reading, null: StorageKey::null(), allows_plain }) }
    }

    /// The id of the key that new files are sealed with; none where they are plain.
    pub fn writing(&self) -> Option<KeyId> {
        self.ring.writing.as_ref().map(|key| key.id())
    }

    /// For the files of one client: those of another it does not open.
    pub fn of(&self, client: &ClientFolder) -> ClientKeyring {
        ClientKeyring { keyring: self.clone(), client: client.as_str().into() }
    }

    /// About how many bytes of plaintext a file of so many bytes has, where new files are sealed as this one was: to
    /// within 15 bytes.
    pub fn plain_bytes(&self, file_bytes: u64) -> u64 {
        match shape(file_bytes).filter(|_| self.ring.writing.is_some()) {
            Some((segments, end)) => segments * SEGMENT + (end - SEALED_END_BYTES_MIN) as u64,
            None => file_bytes,
        }
    }

    fn operators_keys(&self) -> impl Iterator<Item = &StorageKey> {
        self.ring.writing.iter().chain(&self.ring.reading).map(Arc::as_ref)
    }

    fn find(&self, id: KeyId) -> Option<&StorageKey> {
        let null = Some(&self.ring.null).filter(|_| self.ring.allows_plain);
        self.operators_keys().chain(null).find(|key| key.id() == id)
    }
}

/// Of the files of one client.
#[derive(Debug, Clone)]
pub struct ClientKeyring {
    keyring: Keyring,
    client: Arc<str>,
}

impl ClientKeyring {
    /// For those of one kind.
    pub fn files(&self, kind: SealedKind) -> FileKeyring {
        FileKeyring { keyring: self.keyring.clone(), client: self.client.clone(), kind }
    }

    /// As [`Keyring::writing`].
    pub fn writing(&self) -> Option<KeyId> {
        self.keyring.writing()
    }
}

/// Of one kind of the files of one client.
#[derive(Debug, Clone)]
pub struct FileKeyring {
    keyring: Keyring,
    client: Arc<str>,
    kind: SealedKind,
}

impl FileKeyring {
    /// As [`Keyring::writing`].
    pub fn writing(&self) -> Option<KeyId> {
        self.keyring.writing()
    }

    fn keys(&self, key: &StorageKey, header: &SealedHeader) -> SealedKeys {
        SealedKeys::derive(key, header, SealedPlace { kind: self.kind, client: &self.client })
    }

    /// The header and the keys of a new file; none where that is to be plain.
    pub(super) fn create(&self, form: SealedForm) -> Option<(SealedHeader, SealedKeys)> {
        self.keyring.ring.writing.as_ref().map(|key| self.create_with(key, form))
    }

    /// The same for a file that is to be plain and begins as if it were sealed.
    pub(super) fn create_escaped(&self, form: SealedForm) -> (SealedHeader, SealedKeys) {
        self.create_with(&self.keyring.ring.null, form)
    }

    fn create_with(&self, key: &StorageKey, form: SealedForm) -> (SealedHeader, SealedKeys) {
        let header = SealedHeader::create(form, key.id());
        (header, self.keys(key, &header))
    }

    /// The bytes of a file that is written whole.
    pub fn sealed(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self.create(SealedForm::Segments) {
            None => bytes,
            Some(sealing) => seal_whole(sealing, &bytes),
        }
    }

    /// The header and the keys of a file; none where it is plain.
    ///
    /// # Errors
    /// `InvalidData` where it is neither plain, as far as that is allowed, nor sealed with a key that is here.
    pub(super) fn open(&self, file: &File, form: SealedForm) -> io::Result<Option<(SealedHeader, SealedKeys)>> {
        let mut bytes = [0; SEALED_HEADER_BYTES];
        let filled = fill(file, &mut bytes)?;
        let is_whole = filled == bytes.len();
        // A damaged magic does not make a plain file of a sealed one.
        let key = SealedHeader::key_of(&bytes);
        let names_a_key = is_whole && self.keyring.operators_keys().any(|known| known.id() == key);
        if !bytes.starts_with(&SEALED_MAGIC) && !names_a_key {
            return match self.keyring.ring.allows_plain {
                true => Ok(None),
                false => Err(unsealable("it is not sealed")),
            };
        }
        let decoded = SealedHeader::decode(&bytes).ok().filter(|header| is_whole && header.form == form);
        let header = decoded.ok_or_else(|| unsealable("the header of the sealed file is damaged"))?;
        let key = self.keyring.find(header.key);
        let key = key.ok_or_else(|| unsealable(format!("it is sealed with the storage key {}", header.key)))?;
        Ok(Some((header, self.keys(key, &header))))
    }
}

/// Reads from the start of the file, up to its end; gives how much.
fn fill(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The id of the key in the header of a file that is sealed.
pub(super) fn key_of(file: &File) -> io::Result<Option<KeyId>> {
    let mut bytes = [0; SEALED_HEADER_BYTES];
    let is_sealed = fill(file, &mut bytes)? == bytes.len() && bytes.starts_with(&SEALED_MAGIC);
    Ok(is_sealed.then(|| SealedHeader::key_of(&bytes)))
}
