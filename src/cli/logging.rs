//! The log: to standard error with times, and to a file that is rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;

use super::arguments::UsageError;
use crate::base::time::Timestamp;
use crate::bridge::LogBook;

/// How large a log file grows before it is put aside.
const LOG_FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// How many put-aside files are kept: FILE.1 is the newest.
const LOG_FILES_KEPT: u32 = 5;

/// Starts the log: to standard error, the files, and the book if there is one.
pub fn start(level: LevelFilter, files: &[PathBuf], book: Option<Arc<LogBook>>) -> Result<(), UsageError> {
    let open = |path: &PathBuf| {
        RotatedFile::open(path).map_err(|error| UsageError(format!("--log-file {}: {error}", path.display())))
    };
    let files = files.iter().map(open).collect::<Result<Vec<RotatedFile>, UsageError>>()?;
    let mut builder = Builder::new();
    builder.filter_level(level).write_style(WriteStyle::Never).target(Target::Pipe(Box::new(Sinks { files })));
    builder.format(move |out, record| {
        let text = one_line(&record.args().to_string());
        if let Some(book) = &book {
            book.add(record.level(), &text);
        }
        writeln!(out, "{} {:<5} {text}", Timestamp::now(), record.level())
    });
    // Only a second start in one process can fail, and the first one's settings stay.
    let _ = builder.try_init();
    Ok(())
}

/// A record is one line, whatever a name in it holds.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
}

struct Sinks {
    files: Vec<RotatedFile>,
}

impl Write for Sinks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A log that cannot be written must not end what is logged.
        let _ = io::stderr().write_all(bytes);
        for file in &mut self.files {
            let _ = file.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct RotatedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl RotatedFile {
    fn open(path: &Path) -> io::Result<RotatedFile> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(RotatedFile { path: path.to_path_buf(), file, bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > LOG_FILE_BYTES_MAX {
            self.rotate()?;
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..LOG_FILES_KEPT).rev() {
            let _ = std::fs::rename(aside(number), aside(number + 1));
        }
        std::fs::rename(&self.path, aside(1))?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_five_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = RotatedFile::open(&path).unwrap();
        let line = vec![b'x'; LOG_FILE_BYTES_MAX as usize / 2 + 1];
        for _ in 0..9 {
            file.write(&line).unwrap();
        }
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2", "log.3", "log.4", "log.5"]);
    }

    #[test]
    fn a_record_is_one_line() {
        assert_eq!(one_line("a\nb\rc"), "a\\nb\\rc");
    }
}
