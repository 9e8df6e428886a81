//! A whole store sealed, unsealed, or sealed with another key, while nobody uses it.
//!
//! The argument. `sealing.json` names both keys before the first file changes and until the last one has. Each file is
//! written anew beside the store's own, flushed, and renamed over the old one: so at any moment a file is whole, with
//! one key or the other, and its header says which. A file that has the new key already is passed over, so that a run
//! that was cut short is simply done again, or turned round: then the two keys change places in `sealing.json`, and
//! the same holds. Only when all files and all their names are flushed is the old key forgotten.
//!
//! What is damaged never becomes bytes that can be read. Of a file that verifies in part the rest is carried over as
//! lost, which only a sealed file can say: in a store that becomes plain it is sealed with the key of zeros. A file that
//! cannot be opened at all stays as it is.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::at_rest::{
    Ending, FileKeyring, FileWriter, Keyring, SealedKind, SealingState, StoredFile, is_sealed_with, unfinished,
};
use super::client_removal;
use super::error::{At, StoreError};
use super::layout::{ClientFolder, Layout, names_in};
use super::lock::StoreLock;
use super::recovery::{self, open_if_there};
use super::staging;
use super::store::reports_failed_writes;
use super::tree::{each_file, flush_tree};
use crate::base::durable::{Disk, temporary_name};
use crate::base::folder::open_folder;
use crate::base::limits::{REKEY_BYTES_AT_ONCE, REKEY_FILES_AT_ONCE};
use crate::crypto::sealed_file::SEALED_SEGMENT_BYTES;
use crate::crypto::{KeyId, StorageKey};

/// The keys of a store before and after; none where it is plain.
#[derive(Debug, Clone, Default)]
pub struct RekeyRequest {
    pub from: Option<Arc<StorageKey>>,
    pub to: Option<Arc<StorageKey>>,
}

/// What a `rekey` did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Files that were written anew, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Unfinished uploads that were removed.
    pub uploads: u64,
    /// Files that stayed as they are, since they could not be read; and those of which a part could not.
    pub damaged: Vec<PathBuf>,
    /// The watch did not want to go on.
    pub is_cut_short: bool,
}

/// Seals, unseals or reseals the store in `data`, as [`Rekeying::run`] does.
///
/// # Errors
/// Those of [`Rekeying`].
pub fn rekey(
    data: &Path,
    disk: &Disk,
    request: &RekeyRequest,
    watch: &mut dyn FnMut(&Rekeyed) -> bool,
) -> Result<Rekeyed, StoreError> {
    Rekeying::begin(data, disk)?.run(disk, request, watch)
}

/// A store that is held for a `rekey`.
pub struct Rekeying {
    layout: Layout,
    _lock: StoreLock,
}

impl Rekeying {
    /// # Errors
    /// `Locked` where another process has it; whatever the disk says.
    pub fn begin(data: &Path, disk: &Disk) -> Result<Rekeying, StoreError> {
        let layout = Layout::create(data, disk)?;
        let _lock = StoreLock::acquire(&layout)?;
        Ok(Rekeying { layout, _lock })
    }

    /// Whether the store can be sealed with a key that is only made then.
    ///
    /// # Errors
    /// As for [`Rekeying::run`].
    pub fn check_for_new_key(&self, from: &Option<Arc<StorageKey>>) -> Result<(), StoreError> {
        let any = Some(Arc::new(StorageKey::random()));
        next_state(&self.layout, &RekeyRequest { from: from.clone(), to: any }).map(|_| ())
    }

    /// Seals, unseals or reseals it. `watch` is told of what has been done so far, and says whether to go on.
    ///
    /// # Errors
    /// `StorageKeyWanted` or `RekeyUnfinished` where the keys are not those of the store; whatever the disk says. A run
    /// that failed or was cut short is done again with the same keys, or with the two of them exchanged.
    pub fn run(
        &self,
        disk: &Disk,
        request: &RekeyRequest,
        watch: &mut dyn FnMut(&Rekeyed) -> bool,
    ) -> Result<Rekeyed, StoreError> {
        let layout = &self.layout;
        let data = layout.data();
        let state = next_state(layout, request)?;
        client_removal::complete_all(disk, layout)?;
        recovery::recover(disk, layout)?;
        let uploads = remove_uploads(disk, layout)?;
        state.write(disk, data)?;
        let allows_plain = state.also_plain || state.key.is_none();
        let keyring = Keyring::new(request.to.clone(), request.from.iter().cloned().collect(), allows_plain);
        let mut run = Run {
            disk,
            layout,
            keyring,
            target: state.key,
            has_emptied: false,
            can_flush_all: reports_failed_writes(data),
            waiting: Vec::new(),
            waiting_bytes: 0,
            has_unopened: false,
            done: Rekeyed { uploads, ..Rekeyed::default() },
            watch,
        };
        run.all()?;
        let (done, has_unopened) = (run.done, run.has_unopened);
        if !done.is_cut_short {
            flush_names(disk, layout)?;
            match state.key {
                Some(key) => SealingState { key: Some(key), ..SealingState::default() }.write(disk, data)?,
                // Nobody is to take the store for a sealed one by a file that could not be opened.
                None if has_unopened => {
                    SealingState { rekeying: false, also_plain: true, ..state }.write(disk, data)?
                }
                None => SealingState::remove(disk, data)?,
            }
        }
        Ok(done)
    }
}

/// What the store says of itself while it is under way.
fn next_state(layout: &Layout, request: &RekeyRequest) -> Result<SealingState, StoreError> {
    let (from, to) = (request.from.as_ref().map(|key| key.id()), request.to.as_ref().map(|key| key.id()));
    let path = || layout.data().to_path_buf();
    let state = match SealingState::read_or_find(layout)? {
        // Where nothing is to be sealed, nothing is left to be done.
        None if from.is_some() && to.is_some() && to != from => return Err(StoreError::NotSealed { path: path() }),
        None => SealingState { key: None, also: Vec::new(), also_plain: true, rekeying: false },
        Some(state) => state,
    };
    let has = |wanted: &KeyId| from == Some(*wanted) || to == Some(*wanted);
    // Whichever way it goes, all keys have to be here.
    if state.rekeying && !state.key.iter().chain(&state.also).all(has) {
        return Err(unfinished(path(), &state));
    }
    if let Some(wanted) = state.key.filter(|key| !has(key)) {
        return Err(StoreError::StorageKeyWanted { path: path(), wanted, given: from });
    }
    let also: Vec<KeyId> = state.key.into_iter().chain(state.also).filter(|key| Some(*key) != to).collect();
    let also_plain = state.also_plain || state.key.is_none();
    Ok(SealingState { key: to, also, also_plain, rekeying: true })
}

/// Unfinished uploads are begun anew by their clients.
fn remove_uploads(disk: &Disk, layout: &Layout) -> Result<u64, StoreError> {
    let mut removed = 0;
    for client in names_in(&layout.incoming_of_all())?.iter().filter_map(|name| ClientFolder::parse(name)) {
        let path = layout.incoming(&client);
        let folder = open_folder(&path).at("open", &path)?;
        for upload in names_in(&path)? {
            staging::sweep(disk, folder.as_fd(), &upload).at("remove", &path.join(&upload))?;
            removed += 1;
        }
        disk.flush_folder(folder.as_fd(), b"incoming").at("flush", &path)?;
    }
    Ok(removed)
}

/// Waits until every file that was renamed has its new name on the disk.
fn flush_names(disk: &Disk, layout: &Layout) -> Result<(), StoreError> {
    let data = layout.data();
    if reports_failed_writes(data) {
        let anchor = open_folder(data).at("open", data)?;
        return disk.flush_all(anchor.as_fd()).at("flush", data);
    }
    // An earlier run may have been killed between a rename and its flush.
    for path in layout.client_parents().iter().chain([&layout.damage()]) {
        open_folder(path).and_then(|root| flush_tree(disk, root)).at("flush", path)?;
    }
    Ok(())
}

/// A file that was written anew and has not taken the place of the old one.
struct Waiting {
    temporary: Vec<u8>,
    folder: OwnedFd,
    name: Vec<u8>,
    bytes: u64,
}

struct Run<'a> {
    disk: &'a Disk,
    layout: &'a Layout,
    keyring: Keyring,
    target: Option<KeyId>,
    /// Of the files that are gone through a prune has emptied what nobody needs: that is no damage.
    has_emptied: bool,
    can_flush_all: bool,
    waiting: Vec<Waiting>,
    waiting_bytes: u64,
    /// A file could not be opened, and stays as it was.
    has_unopened: bool,
    done: Rekeyed,
    watch: &'a mut dyn FnMut(&Rekeyed) -> bool,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), StoreError> {
        let layout = self.layout;
        let of_all = [layout.ranges_of_all(), layout.deltas_of_all(), layout.received_of_all()];
        for path in of_all {
            self.has_emptied = path == layout.deltas_of_all();
            self.tree(&path)?;
        }
        self.tree(&layout.snapshots_of_all())?;
        self.tree(&layout.damage())?;
        self.put_in_place()
    }

    /// What the file `name` in the folder `prefix` below `path` is, and whose; none where it is not one of the store's.
    fn place(&self, path: &Path, prefix: &[u8], name: &[u8]) -> Option<FileKeyring> {
        let layout = self.layout;
        let owner = match path == layout.damage() {
            true => name.strip_suffix(b".list")?,
            false => prefix.split(|byte| *byte == b'/').next()?,
        };
        let kind = match path {
            _ if path == layout.damage() => SealedKind::DamageList,
            _ if path == layout.snapshots_of_all() => {
                Some(SealedKind::Index).filter(|_| name.ends_with(b".index"))?
            }
            _ if path == layout.deltas_of_all() => SealedKind::Delta,
            _ if path == layout.ranges_of_all() && name.ends_with(b".blocks") => SealedKind::Blocks,
            _ if path == layout.ranges_of_all() => SealedKind::Range,
            _ => SealedKind::Content,
        };
        let client = ClientFolder::parse(std::str::from_utf8(owner).ok()?)?;
        Some(self.keyring.of(&client).files(kind))
    }

    /// Converts the files below a folder.
    fn tree(&mut self, path: &Path) -> Result<(), StoreError> {
        let Some(root) = open_if_there(path)? else { return Ok(()) };
        let mut failure = None;
        let walked = each_file(root, &mut |folder, name, prefix| {
            let Some(keyring) = self.place(path, prefix, name) else { return Ok(()) };
            if failure.is_some() || self.done.is_cut_short {
                return Ok(());
            }
            if let Err(error) = self.file(&path.join(OsStr::from_bytes(prefix)), folder, name, &keyring) {
                failure = Some(error);
            }
            Ok(())
        });
        walked.at("look through", path)?;
        failure.map_or(Ok(()), Err)
    }

    fn file(
        &mut self,
        below: &Path,
        folder: BorrowedFd<'_>,
        name: &[u8],
        keyring: &FileKeyring,
    ) -> Result<(), StoreError> {
        let shown = || below.join(OsStr::from_bytes(name));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            // Somebody else's link: nothing of the store is behind it.
            Err(Errno::LOOP) => return Ok(()),
            opened => File::from(opened.map_err(std::io::Error::from).at("open", &shown())?),
        };
        let is_file = file.metadata().at("look at", &shown())?.is_file();
        if !is_file || self.is_done(&file).at("read", &shown())? {
            return Ok(());
        }
        let mut source = match StoredFile::open(file, keyring, Ending::Required) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.has_unopened = true;
                self.done.damaged.push(shown());
                return Ok(());
            }
            opened => opened.at("read", &shown())?,
        };
        let bytes = source.length().at("look at", &shown())?;
        let (temporary, is_whole) = self.write_anew(&mut source, keyring).at("write anew", &shown())?;
        if !is_whole {
            self.done.damaged.push(shown());
        }
        let folder = folder.try_clone_to_owned().at("open", below)?;
        self.waiting.push(Waiting { temporary, folder, name: name.to_vec(), bytes });
        self.waiting_bytes += bytes;
        match self.waiting.len() >= REKEY_FILES_AT_ONCE || self.waiting_bytes >= REKEY_BYTES_AT_ONCE {
            true => self.put_in_place(),
            false => Ok(()),
        }
    }

    /// Whether a file is as it is to be.
    fn is_done(&self, file: &File) -> std::io::Result<bool> {
        let is_escaped = self.target.is_none() && is_sealed_with(file, Some(StorageKey::null().id()))?;
        Ok(is_escaped || is_sealed_with(file, self.target)?)
    }

    /// Copies a file to a temporary one, whose name it gives; false where parts of it could not be read, which are lost in
    /// the copy as well.
    fn write_anew(&self, source: &mut StoredFile, keyring: &FileKeyring) -> std::io::Result<(Vec<u8>, bool)> {
        let folder = open_folder(&self.layout.damage())?;
        let name = temporary_name();
        let target = FileWriter::create(self.disk, folder.as_fd(), &name, keyring)?;
        let is_whole = self.copy(source, target)?;
        if is_whole || self.target.is_some() {
            return Ok((name, is_whole));
        }
        self.disk.remove_file(folder.as_fd(), &name)?;
        let target = FileWriter::create_with_losses(self.disk, folder.as_fd(), &name, keyring)?;
        Ok((name, self.copy(source, target)?))
    }

    fn copy(&self, source: &mut StoredFile, mut target: FileWriter) -> std::io::Result<bool> {
        let (mut position, length, mut is_whole) = (0, source.length()?, true);
        let mut buffer = vec![0; SEALED_SEGMENT_BYTES];
        while position < length {
            // What is damaged cannot be told from a hole by itself: reading says which it is.
            let segment = source.segment(position, length);
            if let Ok(segment) = &segment
                && segment.is_hole
            {
                target.skip(segment.bytes)?;
                position += segment.bytes;
                continue;
            }
            let wanted = (length - position).min(buffer.len() as u64);
            match segment.and_then(|_| source.read_exact_at(&mut buffer[..wanted as usize], position)) {
                Ok(()) => target.write(&buffer[..wanted as usize])?,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    is_whole &= self.has_emptied && source.is_emptied_at(position)?;
                    target.lose(wanted)?;
                }
                Err(error) => return Err(error),
            }
            position += wanted;
        }
        target.finish()?;
        if !self.can_flush_all {
            target.flush()?;
        }
        Ok(is_whole)
    }

    /// Flushes what waits, and puts it in the place of the old files.
    fn put_in_place(&mut self) -> Result<(), StoreError> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let path = self.layout.damage();
        let from = open_folder(&path).at("open", &path)?;
        if self.can_flush_all {
            self.disk.flush_all(from.as_fd()).at("flush", self.layout.data())?;
        }
        for file in &waiting {
            let renamed = self.disk.rename(from.as_fd(), &file.temporary, file.folder.as_fd(), &file.name);
            renamed.at("rename a file from", &path)?;
            if !self.can_flush_all {
                self.disk
                    .flush_folder(file.folder.as_fd(), b"rekeyed")
                    .at("flush a folder of", self.layout.data())?;
            }
            self.done.files += 1;
            self.done.bytes += file.bytes;
        }
        self.waiting_bytes = 0;
        self.done.is_cut_short |= !(self.watch)(&self.done);
        Ok(())
    }
}
