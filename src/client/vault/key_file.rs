//! The key files of a vault on this host: made, read, and given another passphrase.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::super::error::ClientError;
use super::passphrase::PassphraseSource;
use crate::base::durable;
use crate::base::limits::{PASSPHRASE_KIB, PASSPHRASE_PASSES, VAULT_KEY_FILE_BYTES_MAX};
use crate::base::shutdown::Shutdown;
use crate::base::vault::VaultId;
use crate::crypto::vault::is_put_key_file;
use crate::crypto::{CryptoError, FullKey, PassphraseCost, PutKey};

/// The full key in the state folder, under its passphrase.
pub const FULL_KEY_FILE: &str = "vault.key";
/// The half that only writes, in clear.
pub const PUT_KEY_FILE: &str = "vault-put.key";
const KEY_MODE: u32 = 0o600;

/// What a passphrase is to take whoever tries it, on a host like this one.
const SECONDS_WANTED: f64 = 0.75;
/// Memory that is measured with, and the least unless this host has little.
const MEASURED: PassphraseCost = PassphraseCost { kib: 64 * 1024, passes: 3 };
/// The most memory that is chosen, so that a small host can open the key one day.
const KIB_CHOSEN_MAX: u32 = 256 * 1024;
/// With `--low-memory`.
const LOW_MEMORY: PassphraseCost = PassphraseCost { kib: 16 * 1024, passes: 3 };

/// Where the keys of a vault are, for a run that may need them.
pub struct VaultKeys {
    /// `--vault-key`: either kind of file.
    pub file: Option<PathBuf>,
    /// The state folder.
    pub state: PathBuf,
    pub passphrase: PassphraseSource,
    pub shutdown: Shutdown,
}

impl VaultKeys {
    /// The half that writes: from the file that was given, else from the state folder. A full key is opened only where
    /// there is no other.
    ///
    /// # Errors
    /// [`ClientError::Impossible`] where there is none, [`ClientError::VaultKey`] where it does not open.
    pub fn put_key(&self) -> Result<PutKey, ClientError> {
        let own = [PUT_KEY_FILE, FULL_KEY_FILE].map(|name| self.state.join(name));
        let Some(path) = self.file.clone().or_else(|| own.into_iter().find(|path| path.exists())) else {
            let text = format!(
                "there is no key of a vault in {}: make one with \"cyberbackup vault create\", or give --vault-key FILE",
                self.state.display()
            );
            return Err(ClientError::Impossible(text));
        };
        let bytes = read_key_file(&path)?;
        match is_put_key_file(&bytes) {
            true => {
                let key = PutKey::from_file(&bytes).map_err(|error| broken(&path, error))?;
                self.check_halves(&key, &path)?;
                Ok(key)
            }
            false => self.open(&path, &bytes).map(FullKey::into_put),
        }
    }

    /// Of two keys in the state folder that belong to two vaults nobody knows which is meant, and the full key that is kept
    /// would not open what is stored.
    fn check_halves(&self, put: &PutKey, path: &Path) -> Result<(), ClientError> {
        let full = self.state.join(FULL_KEY_FILE);
        if self.file.is_some() || !full.exists() {
            return Ok(());
        }
        match FullKey::vault_of_file(&read_key_file(&full)?) {
            Some(vault) if vault != put.vault() => Err(ClientError::Impossible(format!(
                "{} is the key of the vault {vault}, and {} writes into the vault {}: move one of them away, or say \
                 which is meant with --vault-key",
                full.display(),
                path.display(),
                put.vault()
            ))),
            _ => Ok(()),
        }
    }

    /// The full key of `vault`, or of whichever vault the file is of.
    ///
    /// # Errors
    /// [`ClientError::Impossible`] where there is none, or one of another vault, or only the half that writes;
    /// [`ClientError::VaultKey`] where it does not open.
    pub fn full_key(&self, vault: Option<VaultId>) -> Result<FullKey, ClientError> {
        let path = self.full_key_path();
        let needed = || match vault {
            Some(vault) => format!("what is in the vault {vault} opens with its full key only"),
            None => "the full key of the vault is needed".to_string(),
        };
        if !path.exists() {
            let text = format!("{}, and there is none in {}: give --vault-key FILE", needed(), path.display());
            return Err(ClientError::Impossible(text));
        }
        let bytes = read_key_file(&path)?;
        if is_put_key_file(&bytes) {
            let text = format!("{}, and {} is the half that writes: give vault.key", needed(), path.display());
            return Err(ClientError::Impossible(text));
        }
        if let (Some(vault), Some(found)) = (vault, FullKey::vault_of_file(&bytes))
            && vault != found
        {
            let text = format!("{}, and {} is the key of the vault {found}", needed(), path.display());
            return Err(ClientError::Impossible(text));
        }
        self.open(&path, &bytes)
    }

    /// Whether there is a full key, or the person said that there is one.
    pub fn has_full_key(&self) -> bool {
        let path = self.full_key_path();
        self.file.is_some() || path.exists()
    }

    pub fn full_key_path(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| self.state.join(FULL_KEY_FILE))
    }

    fn open(&self, path: &Path, bytes: &[u8]) -> Result<FullKey, ClientError> {
        // Nobody is asked for the passphrase of what cannot open.
        if FullKey::vault_of_file(bytes).is_none() {
            return Err(broken(path, CryptoError::VaultKeyMalformed));
        }
        let passphrase = self.passphrase.read(&path.display().to_string(), &self.shutdown)?;
        FullKey::from_file(bytes, &passphrase)
            .map_err(|source| ClientError::VaultKey { file: path.display().to_string(), source })
    }

    /// Seals the full key under another passphrase.
    ///
    /// # Errors
    /// As [`VaultKeys::full_key`]; the file is then as it was.
    pub fn change_passphrase(&self, next: &PassphraseSource, cost: PassphraseCost) -> Result<VaultId, ClientError> {
        let (key, path) = (self.full_key(None)?, self.full_key_path());
        let passphrase = next.read_new(&path.display().to_string(), &self.shutdown)?;
        write_key(&path, &sealed(&key, &path, &passphrase, cost)?)?;
        Ok(key.put().vault())
    }
}

/// What [`create_vault`] made.
pub struct CreatedVault {
    pub vault: VaultId,
    pub full_key: PathBuf,
    pub put_key: PathBuf,
    pub cost: PassphraseCost,
}

/// Makes a vault: the full key at `keys`' place, and the half that writes in the state folder. The full key comes first:
/// nothing may be stored that nobody can ever read.
///
/// # Errors
/// [`ClientError::Impossible`] where one of the two is there already.
pub fn create_vault(keys: &VaultKeys, low_memory: bool) -> Result<CreatedVault, ClientError> {
    let (full, put) = (keys.full_key_path(), keys.state.join(PUT_KEY_FILE));
    if let Some(there) = [&full, &put].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        let text = format!(
            "{} is there already, and a vault without its key is lost: move it away if it is not needed, or use another \
             folder with --state",
            there.display()
        );
        return Err(ClientError::Impossible(text));
    }
    let passphrase = keys.passphrase.read_new(&full.display().to_string(), &keys.shutdown)?;
    let cost = calibrate(low_memory).map_err(|error| broken(&full, error))?;
    let key = FullKey::generate().map_err(|error| broken(&full, error))?;
    write_key(&full, &sealed(&key, &full, &passphrase, cost)?)?;
    write_key(&put, &key.put().to_file())?;
    Ok(CreatedVault { vault: key.put().vault(), full_key: full, put_key: put, cost })
}

/// Writes the half that writes to `file`, which must not be there.
///
/// # Errors
/// As [`VaultKeys::put_key`]; [`ClientError::Impossible`] where something is there.
pub fn export_put_key(keys: &VaultKeys, file: &Path) -> Result<VaultId, ClientError> {
    if file.symlink_metadata().is_ok() {
        return Err(ClientError::Impossible(format!("{} is there already: name another file", file.display())));
    }
    let key = keys.put_key()?;
    write_key(file, &key.to_file())?;
    Ok(key.vault())
}

fn sealed(key: &FullKey, path: &Path, passphrase: &[u8], cost: PassphraseCost) -> Result<Vec<u8>, ClientError> {
    key.to_file(passphrase, cost).map_err(|error| broken(path, error))
}

fn write_key(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let failed = |source| ClientError::Io { doing: format!("write {}", path.display()), source };
    durable::replace_file(path, bytes, KEY_MODE).map_err(failed)
}

/// Reads a key file, of either kind.
///
/// # Errors
/// [`ClientError::VaultKey`] where it is no file or too long for one, [`ClientError::Io`] where it cannot be read.
pub fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let failed = |source: io::Error| ClientError::Io { doing: format!("read {}", path.display()), source };
    // What is no file could keep the opening waiting, or never end.
    let mut options = File::options();
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.size() > VAULT_KEY_FILE_BYTES_MAX {
        return Err(broken(path, CryptoError::VaultKeyMalformed));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(VAULT_KEY_FILE_BYTES_MAX as usize));
    file.take(VAULT_KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn broken(path: &Path, error: CryptoError) -> ClientError {
    ClientError::VaultKey { file: path.display().to_string(), source: error.into() }
}

/// What a passphrase is to cost, so that trying one takes about three quarters of a second here.
///
/// # Errors
/// [`CryptoError::PassphraseMemory`] where there is no memory to measure with.
pub fn calibrate(low_memory: bool) -> Result<PassphraseCost, CryptoError> {
    if low_memory {
        let seconds = LOW_MEMORY.measure()?.as_secs_f64();
        return Ok(LOW_MEMORY.stretched(SECONDS_WANTED / seconds, LOW_MEMORY.kib));
    }
    let quarter = u32::try_from(memory_kib() / 4).unwrap_or(u32::MAX);
    let kib_max = quarter.clamp(*PASSPHRASE_KIB.start(), KIB_CHOSEN_MAX);
    let measured = PassphraseCost { kib: MEASURED.kib.min(kib_max), ..MEASURED };
    let seconds = measured.measure()?.as_secs_f64();
    Ok(measured.stretched(SECONDS_WANTED / seconds, kib_max))
}

impl PassphraseCost {
    /// So many times as much: memory first, then passes; never less.
    fn stretched(self, factor: f64, kib_max: u32) -> PassphraseCost {
        const MIB: u32 = 1024;
        let kib = (f64::from(self.kib) * factor) as u32 / MIB * MIB;
        let kib = kib.clamp(self.kib, kib_max.max(self.kib));
        let rest = factor * f64::from(self.kib) / f64::from(kib);
        let passes = (f64::from(self.passes) * rest) as u32;
        PassphraseCost { kib, passes: passes.clamp(self.passes, *PASSPHRASE_PASSES.end()) }
    }
}

/// Memory of this host in KiB.
fn memory_kib() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram as u64 * u64::from(system.mem_unit) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_host_spends_memory_then_passes_and_a_slow_one_no_less() {
        let stretched = |factor, kib_max| MEASURED.stretched(factor, kib_max);
        assert_eq!(stretched(0.1, KIB_CHOSEN_MAX), MEASURED);
        assert_eq!(stretched(2.0, KIB_CHOSEN_MAX), PassphraseCost { kib: 128 * 1024, passes: 3 });
        assert_eq!(stretched(8.0, KIB_CHOSEN_MAX), PassphraseCost { kib: 256 * 1024, passes: 6 });
        assert_eq!(stretched(1000.0, MEASURED.kib), PassphraseCost { kib: 64 * 1024, passes: 64 });
        assert_eq!(LOW_MEMORY.stretched(10.0, LOW_MEMORY.kib), PassphraseCost { kib: 16 * 1024, passes: 30 });
    }
}
