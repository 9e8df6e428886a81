//! A tar stream as POSIX.1-2001 ("pax") has it, written front to back: what does not fit a ustar header (long
//! names, sizes from 8 GiB on, times before 1970 or with nanoseconds) goes into an extended header before it.
//!
//! Names are bytes. A name that is not UTF-8 and needs an extended header is marked with `hdrcharset=BINARY`, as the
//! standard has it; GNU tar mentions that it does not know that keyword, and takes the bytes as they are.

use std::io::{self, Write};

use crate::base::entry::{Entry, EntryKind};
use crate::base::time::Timestamp;

const BLOCK: usize = 512;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Largest number in the twelve and in the eight bytes of a ustar header.
const OCTAL_12_MAX: u64 = (1 << 33) - 1;
const OCTAL_8_MAX: u64 = (1 << 21) - 1;
/// Longest name and longest link target in a ustar header, in bytes.
const NAME_BYTES: usize = 100;
/// Longest owner or group name there, with a NUL behind it.
const OWNER_BYTES: usize = 32;

/// Writes a tar stream.
pub struct PaxWriter<W: Write> {
    out: W,
    /// Bytes of the present content that are still to come.
    left: u64,
    /// Zeros that fill its last block.
    padding: usize,
}

impl<W: Write> PaxWriter<W> {
    pub fn new(out: W) -> PaxWriter<W> {
        PaxWriter { out, left: 0, padding: 0 }
    }

    /// Begins a member; for a file, exactly `size` bytes of content follow.
    pub fn begin(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        let mut name = entry.path.as_bytes().to_vec();
        if name.is_empty() {
            name.push(b'.');
        }
        if entry.kind == EntryKind::Folder {
            name.push(b'/');
        }
        let records = records(entry, &name, size);
        if !records.is_empty() {
            let header = Header { kind: b'x', name: b"PaxHeaders/member", size: records.len() as u64, entry: None };
            self.out.write_all(&header.encode())?;
            self.out.write_all(&records)?;
            self.out.write_all(&ZEROS[..padding(records.len() as u64)])?;
        }
        let kind = match entry.kind {
            EntryKind::Folder => b'5',
            EntryKind::Link => b'2',
            EntryKind::File => b'0',
        };
        (self.left, self.padding) = (size, padding(size));
        self.out.write_all(&Header { kind, name: &name, size, entry: Some(entry) }.encode())
    }

    /// Adds to the content of the file that was begun.
    ///
    /// # Errors
    /// `InvalidInput` where that is more than was announced.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.out.write_all(bytes)
    }

    /// Ends the content.
    ///
    /// # Errors
    /// `UnexpectedEof` where it is shorter than was announced.
    pub fn end(&mut self) -> io::Result<()> {
        match self.left {
            0 => self.out.write_all(&ZEROS[..std::mem::take(&mut self.padding)]),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }

    /// Ends the stream; without this, readers say that it is cut short.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// The extended header's records, for what the header cannot say; none where it can say all.
fn records(entry: &Entry, name: &[u8], size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let long: Vec<(&str, &[u8])> = [("path", name), ("linkpath", entry.link_target.as_slice())]
        .into_iter()
        .filter(|(_, value)| value.len() > NAME_BYTES)
        .collect();
    if long.iter().any(|(_, value)| std::str::from_utf8(value).is_err()) {
        put_record(&mut records, "hdrcharset", b"BINARY");
    }
    for (key, value) in long {
        put_record(&mut records, key, value);
    }
    if size > OCTAL_12_MAX {
        put_record(&mut records, "size", size.to_string().as_bytes());
    }
    if entry.mtime.nanoseconds != 0 || !(0..=OCTAL_12_MAX as i64).contains(&entry.mtime.seconds) {
        put_record(&mut records, "mtime", decimal(entry.mtime).as_bytes());
    }
    for (key, number) in [("uid", entry.owner), ("gid", entry.group)] {
        if u64::from(number) > OCTAL_8_MAX {
            put_record(&mut records, key, number.to_string().as_bytes());
        }
    }
    records
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn put_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a fraction; before 1970 the whole number is negative, fraction and all.
fn decimal(time: Timestamp) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanoseconds) if seconds >= 0 => format!("{seconds}.{nanoseconds:09}"),
        (seconds, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

struct Header<'a> {
    kind: u8,
    name: &'a [u8],
    size: u64,
    /// None for an extended header.
    entry: Option<&'a Entry>,
}

impl Header<'_> {
    fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let entry = self.entry;
        put(&mut block[..NAME_BYTES], self.name);
        put_octal(&mut block[100..108], entry.map_or(0o644, |entry| u64::from(entry.mode & 0o7777)));
        put_octal(&mut block[108..116], entry.map_or(0, |entry| u64::from(entry.owner)));
        put_octal(&mut block[116..124], entry.map_or(0, |entry| u64::from(entry.group)));
        put_octal(&mut block[124..136], self.size);
        put_octal(&mut block[136..148], entry.map_or(0, |entry| u64::try_from(entry.mtime.seconds).unwrap_or(0)));
        block[156] = self.kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        if let Some(entry) = entry {
            put(&mut block[157..257], &entry.link_target);
            put(&mut block[265..265 + OWNER_BYTES - 1], &entry.owner_name);
            put(&mut block[297..297 + OWNER_BYTES - 1], &entry.group_name);
        }
        // The sum counts its own eight bytes as spaces.
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ');
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// As much of the bytes as there is room for: what is cut off stands in the extended header. An owner's name that
/// does not fit is left out, since its number is there.
fn put(field: &mut [u8], bytes: &[u8]) {
    match (field.len(), bytes.len()) {
        (NAME_BYTES, length) => {
            let length = length.min(NAME_BYTES);
            field[..length].copy_from_slice(&bytes[..length]);
        }
        (room, length) if length <= room => field[..length].copy_from_slice(bytes),
        _ => {}
    }
}

/// Octal digits and a NUL; 0 for what stands in the extended header.
fn put_octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let number = if number < 1 << (3 * digits) { number } else { 0 };
    field[..digits].copy_from_slice(format!("{number:0digits$o}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for (value, wanted) in [(0, "8 path=\n"), (1, "9 path=a\n"), (2, "11 path=aa\n"), (90, "99 "), (91, "101 ")]
        {
            let mut out = Vec::new();
            put_record(&mut out, "path", &b"a".repeat(value));
            let text = String::from_utf8(out.clone()).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, out.len(), "{value}");
            assert!(text.starts_with(wanted), "{text}");
        }
    }

    #[test]
    fn times_are_decimal_before_1970_too() {
        let time = |seconds, nanoseconds| decimal(Timestamp { seconds, nanoseconds });
        assert_eq!([time(7, 0), time(7, 5), time(-7, 0)], ["7", "7.000000005", "-7"]);
        assert_eq!([time(-1, 750_000_000), time(-2, 1)], ["-0.250000000", "-1.999999999"]);
    }

    #[test]
    fn gnu_tar_reads_the_size_of_a_file_beyond_8_gib() {
        let entry = Entry {
            path: crate::base::path::EntryPath::parse(b"large").unwrap(),
            kind: EntryKind::File,
            size: 0,
            mtime: Timestamp { seconds: 1_000, nanoseconds: 0 },
            ctime: Timestamp::default(),
            inode: 0,
            mode: 0o644,
            owner: 3_000_000,
            group: 0,
            owner_name: Vec::new(),
            group_name: Vec::new(),
            link_target: Vec::new(),
            hard_link: None,
            fields: Vec::new(),
        };
        let size = (9 << 30) + 1;
        let archive = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PaxWriter::new(archive.reopen().unwrap());
        writer.begin(&entry, size).unwrap();
        let headers = writer.out.metadata().unwrap().len();
        // The content and the end mark, as holes.
        writer.out.set_len(headers + size + 511 + 1_024).unwrap();
        let listed = std::process::Command::new("tar").arg("-tvf").arg(archive.path()).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(
            listed.status.success() && text.contains("3000000/0") && text.contains(&size.to_string()),
            "{text}"
        );
    }

    #[test]
    fn a_content_of_another_length_than_announced_is_an_error() {
        let mut writer = PaxWriter::new(Vec::new());
        (writer.left, writer.padding) = (3, 509);
        assert!(writer.write(b"four").is_err());
        writer.write(b"12").unwrap();
        assert!(writer.end().is_err());
    }
}
