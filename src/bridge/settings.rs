//! The two JSON files of the page: read with defaults for what is missing, checked, and replaced whole.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::base::durable::replace_file;
use crate::client::config::{TransferInfo, VAULT_LINE};

pub const PAGE_FILE: &str = "server_gui_settings.json";
pub const PROGRESS_FILE: &str = "progress_config.json";
/// How much of such a file is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Milliseconds between two updates of progress.
const INTERVAL_RANGE: std::ops::RangeInclusive<u64> = 100..=10_000;
const WEIGHT_MAX: f64 = 1_000.0;

/// `server_gui_settings.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageSettings {
    pub theme: String,
    pub auto_connect: bool,
    pub progress_interval: u64,
}

/// `progress_config.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressConfig {
    pub phases: Phases,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    #[serde(rename = "CONNECT")]
    pub connect: PhaseLook,
    #[serde(rename = "BACKUP_IN_PROGRESS")]
    pub backup: PhaseLook,
    #[serde(rename = "CLEANUP")]
    pub cleanup: PhaseLook,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseLook {
    pub color: String,
    pub weight: f64,
}

impl Default for PageSettings {
    fn default() -> PageSettings {
        PageSettings { theme: "dark".into(), auto_connect: true, progress_interval: 500 }
    }
}

impl Default for Phases {
    fn default() -> Phases {
        let look = |color: &str, weight| PhaseLook { color: color.into(), weight };
        Phases { connect: look("#4CAF50", 5.0), backup: look("#2196F3", 80.0), cleanup: look("#FF9800", 15.0) }
    }
}

impl PageSettings {
    fn check(&self) -> Result<(), String> {
        if !["dark", "light", "auto"].contains(&self.theme.as_str()) {
            return Err(format!("theme: {:?} is none of dark, light and auto", self.theme));
        }
        if !INTERVAL_RANGE.contains(&self.progress_interval) {
            return Err(format!("progress_interval: {} is not within 100 to 10000 ms", self.progress_interval));
        }
        Ok(())
    }
}

impl ProgressConfig {
    pub fn weights(&self) -> [f64; 3] {
        let Phases { connect, backup, cleanup } = &self.phases;
        [connect.weight, backup.weight, cleanup.weight]
    }

    fn check(&self) -> Result<(), String> {
        let Phases { connect, backup, cleanup } = &self.phases;
        for (name, look) in [("CONNECT", connect), ("BACKUP_IN_PROGRESS", backup), ("CLEANUP", cleanup)] {
            let digits = look.color.strip_prefix('#').unwrap_or_default();
            if digits.len() != 6 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("{name}: the color {:?} is not written #RRGGBB", look.color));
            }
            if !(0.0..=WEIGHT_MAX).contains(&look.weight) {
                return Err(format!("{name}: the weight {} is not within 0 to 1000", look.weight));
            }
        }
        if self.weights().iter().sum::<f64>() <= 0.0 {
            return Err("all weights are 0: give one of them more".into());
        }
        Ok(())
    }
}

/// The files and what they say.
pub struct Settings {
    folder: PathBuf,
    current: Mutex<(PageSettings, ProgressConfig)>,
}

impl Settings {
    /// Reads both files of the folder; one that is wrong is named in the log, and defaults count.
    pub fn open(folder: &Path) -> Settings {
        let page = read(&folder.join(PAGE_FILE), PageSettings::check);
        let progress = read(&folder.join(PROGRESS_FILE), ProgressConfig::check);
        Settings { folder: folder.to_path_buf(), current: Mutex::new((page, progress)) }
    }

    pub fn page(&self) -> PageSettings {
        self.current().0.clone()
    }

    pub fn progress(&self) -> ProgressConfig {
        self.current().1.clone()
    }

    pub fn json(&self) -> Value {
        let (page, progress) = self.current().clone();
        let file = |name: &str| self.folder.join(name).display().to_string();
        json!({
            "settings": page,
            "progress": progress,
            "files": { "settings": file(PAGE_FILE), "progress": file(PROGRESS_FILE) },
        })
    }

    /// Takes some or all fields of `settings` and `progress`, and writes the files that they concern.
    pub fn change(&self, change: &Value) -> Result<(), ApiError> {
        let mut current = self.current();
        let page = merged(&current.0, &change["settings"], PageSettings::check)?;
        let progress = merged(&current.1, &change["progress"], ProgressConfig::check)?;
        if page.is_none() && progress.is_none() {
            return Err(ApiError::bad("nothing to change is named: give settings or progress"));
        }
        if let Some(page) = page {
            write(&self.folder.join(PAGE_FILE), &page)?;
            current.0 = page;
        }
        if let Some(progress) = progress {
            write(&self.folder.join(PROGRESS_FILE), &progress)?;
            current.1 = progress;
        }
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, (PageSettings, ProgressConfig)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: Default + for<'a> Deserialize<'a>>(file: &Path, check: impl Fn(&T) -> Result<(), String>) -> T {
    use std::io::Read;
    let mut bytes = Vec::new();
    match std::fs::File::open(file).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return T::default(),
        Err(error) => bytes = error.to_string().into_bytes(),
    }
    let parsed = serde_json::from_slice::<T>(&bytes).map_err(|error| error.to_string());
    parsed.and_then(|value| check(&value).map(|()| value)).unwrap_or_else(|problem| {
        log::warn!("{}: {problem}: the defaults count", file.display());
        T::default()
    })
}

/// `current` with the fields of `change` in the place of its own; none where there is no change.
fn merged<T: Serialize + for<'a> Deserialize<'a>>(
    current: &T,
    change: &Value,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Option<T>, ApiError> {
    if change.is_null() {
        return Ok(None);
    }
    let mut value = serde_json::to_value(current).unwrap_or_default();
    merge(&mut value, change)?;
    let merged: T = serde_json::from_value(value).map_err(|error| ApiError::bad(error.to_string()))?;
    check(&merged).map_err(ApiError::bad)?;
    Ok(Some(merged))
}

fn merge(into: &mut Value, change: &Value) -> Result<(), ApiError> {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                // Fields that are not known are no part of the files.
                if let Some(place) = into.get_mut(key) {
                    merge(place, value)?;
                }
            }
        }
        (Value::Object(_), other) => return Err(ApiError::bad(format!("{other} stands where fields are wanted"))),
        (into, change) => *into = change.clone(),
    }
    Ok(())
}

fn write(file: &Path, value: &impl Serialize) -> Result<(), ApiError> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    replace(file, &bytes)
}

fn replace(file: &Path, bytes: &[u8]) -> Result<(), ApiError> {
    replace_file(file, bytes, 0o644)
        .map_err(|error| ApiError::new(500, format!("cannot write {}: {error}", file.display())))
}

/// Writes `transfer.info` from text fields, after reading it back as every run will.
pub fn write_transfer_info(
    file: &Path,
    server: &str,
    user: &str,
    vault: bool,
    paths: &[String],
) -> Result<(), ApiError> {
    let flag = vault.then_some(VAULT_LINE);
    let lines: Vec<&str> = [server, user].into_iter().chain(flag).chain(paths.iter().map(String::as_str)).collect();
    if lines.iter().any(|line| line.contains(['\n', '\r', '\0'])) {
        return Err(ApiError::bad("a line end cannot stand in transfer.info"));
    }
    let text = lines.join("\n") + "\n";
    let read = TransferInfo::parse(text.as_bytes(), file).map_err(|error| ApiError::bad(error.to_string()))?;
    if read.vault != vault {
        return Err(ApiError::bad("a path --vault is written as ./--vault"));
    }
    replace(file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_checked_written_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::open(folder.path());
        assert_eq!((settings.page(), settings.progress()), (PageSettings::default(), ProgressConfig::default()));
        settings.change(&json!({ "settings": { "theme": "light", "unknown": 1 } })).unwrap();
        settings.change(&json!({ "progress": { "phases": { "CLEANUP": { "weight": 20 } } } })).unwrap();
        let again = Settings::open(folder.path());
        assert_eq!((again.page().theme.as_str(), again.progress().weights()), ("light", [5.0, 80.0, 20.0]));
        assert!(!std::fs::read_to_string(folder.path().join(PAGE_FILE)).unwrap().contains("unknown"));
    }

    #[test]
    fn wrong_values_are_refused_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::open(folder.path());
        for wrong in [
            json!({}),
            json!({ "settings": { "theme": "<b>" } }),
            json!({ "settings": { "progress_interval": 1 } }),
            json!({ "settings": { "auto_connect": "yes" } }),
            json!({ "settings": [] }),
            json!({ "progress": { "phases": { "CONNECT": { "color": "red" } } } }),
            json!({ "progress": { "phases": { "CONNECT": { "weight": -1 } } } }),
        ] {
            assert_eq!(settings.change(&wrong).unwrap_err().status, 400, "{wrong}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_file_counts_as_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PAGE_FILE), "{").unwrap();
        std::fs::write(
            folder.path().join(PROGRESS_FILE),
            r##"{"phases": {"CONNECT": {"color": "#000000", "weight": 1}}}"##,
        )
        .unwrap();
        let settings = Settings::open(folder.path());
        assert_eq!((settings.page(), settings.progress().weights()), (PageSettings::default(), [1.0, 80.0, 15.0]));
    }

    #[test]
    fn transfer_info_is_written_only_when_it_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("transfer.info");
        let paths = |path: &str| vec![path.to_string()];
        for (server, user, path) in [
            ("host", "ada", "/a"),
            ("host:1", "", "/a"),
            ("host:1", "ada", "/a\n/b"),
            ("host:1", "ada", "--vault"),
            ("host:1", "ada", "--other"),
        ] {
            assert_eq!(write_transfer_info(&file, server, user, false, &paths(path)).unwrap_err().status, 400);
        }
        assert!(!file.exists());
        write_transfer_info(&file, "host:1", "ada", false, &paths("/a b")).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "host:1\nada\n/a b\n");
        write_transfer_info(&file, "host:1", "ada", true, &paths("/a b")).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "host:1\nada\n--vault\n/a b\n");
    }
}
