//! What of a pack belongs to none of its objects: the header, and the records of data keys. The index has what they say,
//! so that nobody misses them until the index is lost too. They are looked at while it is there, and a pack in which one
//! of them is damaged is written anew from the index.
//!
//! A pack is walked from record header to record header. Where one cannot be read, or leads nowhere, the walk goes on
//! at the next whole record; what lies between is damage that is found where it is needed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::index::has_key;
use super::pack::{Scanner, has_header};
use super::record::{Kind, PACK_HEADER_BYTES, Record, RecordHeader};
use super::rows::{PackRow, Place};
use super::verify::VaultWatch;
use super::{Vault, pack_rows};
use crate::base::vault::DataKeyId;
use crate::crypto::data_key_id;
use crate::storage::error::{At, StoreError};

/// So many faults of one pack are named.
const FAULTS_NAMED_MAX: usize = 64;

/// What is damaged of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Header,
    /// No good record of the key lies before what is sealed under it.
    Key(DataKeyId),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Header => f.write_str("its header is damaged"),
            Fault::Key(id) => write!(f, "the record of data key {id} is damaged or gone"),
        }
    }
}

impl Vault {
    /// Looks at headers and keys of all packs that hold something, and writes anew those in which one is damaged. False
    /// where the watch did not want to go on.
    pub fn verify_packs(&self, watch: &mut dyn VaultWatch) -> Result<bool, StoreError> {
        let mut rows: Vec<(u32, PackRow)> = pack_rows(&self.index)?.into_iter().collect();
        rows.sort_unstable_by_key(|(number, _)| *number);
        for (number, row) in rows.into_iter().filter(|(_, row)| row.objects > 0) {
            if !watch.read(0, 0) {
                return Ok(false);
            }
            let faults = self.faults(number, &row)?;
            if faults.is_empty() {
                continue;
            }
            let fate = self.mend(number);
            for fault in faults {
                if !watch.damaged(format!("pack {number:08x}: {fault}: {fate}")) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn faults(&self, number: u32, row: &PackRow) -> Result<Vec<Fault>, StoreError> {
        let path = self.pack_path(number);
        match self.walk(number, row, &path) {
            // It was emptied meanwhile, or what it held is missed where it is needed.
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            faults => faults,
        }
    }

    fn walk(&self, number: u32, row: &PackRow, path: &Path) -> Result<Vec<Fault>, StoreError> {
        let file = File::open(path).at("open", path)?;
        let mut walk = Walk { file, path: path.to_path_buf(), end: row.indexed_bytes, next: 0, last: 0 };
        let (mut keys, mut faults) = (BTreeSet::new(), Vec::new());
        if !has_header(path, self.id, number).at("read", path)? {
            faults.push(Fault::Header);
        }
        while faults.len() < FAULTS_NAMED_MAX
            && let Some((offset, header)) = walk.step().at("read", path)?
        {
            match header.key {
                None if header.kind == Kind::Key => keys.extend(walk.good_key(offset, &header).at("read", path)?),
                Some(id) if !keys.contains(&id) => {
                    let place = Place { pack: number, offset: offset as u32, length: header.payload_bytes };
                    if self.needs_key(&walk.file, path, header.kind, place)? {
                        keys.insert(id);
                        faults.push(Fault::Key(id));
                    }
                }
                _ => {}
            }
        }
        Ok(faults)
    }

    /// Whether what lies there is whole and needed, and the index has its key: without that it counts as damaged itself.
    fn needs_key(&self, file: &File, path: &Path, kind: Kind, place: Place) -> Result<bool, StoreError> {
        let read = Record::read(file, u64::from(place.offset), kind, place.length).at("read", path)?;
        let Some(record) = read else { return Ok(false) };
        let name = record.indexed_name();
        self.index.read(|index| match index.object(&name)?.filter(|row| row.place == place) {
            Some(row) => has_key(&index.key_numbers, &index.keys, &row),
            None => Ok(false),
        })
    }

    /// Writes a pack anew; says what became of it.
    fn mend(&self, number: u32) -> &'static str {
        match self.write_anew(number) {
            Ok(true) => "what it holds was written anew, with the keys from the index",
            Ok(false) => "it is in use, or something else in it is damaged, so that it stays as it is for now",
            Err(error) => {
                log::error!("vault {}: pack {number:08x} cannot be written anew: {error}", self.id);
                "it cannot be written anew now; the server's log says why"
            }
        }
    }
}

/// A way through a pack, in the order of its records.
struct Walk {
    file: File,
    path: PathBuf,
    /// So much of the pack is indexed.
    end: u64,
    /// Where the next record is looked for; 0 before the first.
    next: u64,
    /// Where the last one began.
    last: u64,
}

impl Walk {
    /// The next record's header, and where it lies.
    fn step(&mut self) -> io::Result<Option<(u64, RecordHeader)>> {
        let mut offset = self.next.max(PACK_HEADER_BYTES as u64);
        if offset >= self.end {
            return Ok(None);
        }
        let header = match self.header_at(offset)? {
            Some(header) => header,
            None => {
                // It may be the last record's length that led here.
                let Some(found) = self.whole_record_after(self.last)? else { return Ok(None) };
                offset = found;
                let Some(header) = self.header_at(offset)? else { return Ok(None) };
                header
            }
        };
        (self.last, self.next) = (offset, offset + header.record_bytes());
        Ok(Some((offset, header)))
    }

    /// The header at `offset`, where it leads to a place within the pack.
    fn header_at(&self, offset: u64) -> io::Result<Option<RecordHeader>> {
        let mut bytes = [0; RecordHeader::BYTES_MAX];
        let wanted = bytes.len().min((self.end - offset) as usize);
        match self.file.read_exact_at(&mut bytes[..wanted], offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let header = RecordHeader::decode(&bytes[..wanted]);
        Ok(header.filter(|header| offset + header.record_bytes() <= self.end))
    }

    fn whole_record_after(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut scanner = Scanner::open(&self.path, offset, true)?;
        while let Some(found) = scanner.next()? {
            if found.offset > offset {
                return Ok(Some(found.offset).filter(|found| *found < self.end));
            }
        }
        Ok(None)
    }

    /// The key whose record lies here, if it is the one that was written.
    fn good_key(&self, offset: u64, header: &RecordHeader) -> io::Result<Option<DataKeyId>> {
        let record = Record::read(&self.file, offset, Kind::Key, header.payload_bytes)?;
        Ok(record.and_then(|record| {
            let id = data_key_id(record.payload());
            (record.name == super::record::key_name(id)).then_some(id)
        }))
    }
}
