//! One file on its way in: packets in any order become one stream of ciphertext, which is decrypted, summed and
//! written while it arrives.
//!
//! Packets that come in order go straight through. One that comes too early waits in the upload's folder and is
//! joined in its turn. One that comes again and differs replaces the earlier one, also where that has been decrypted:
//! what was written is then encrypted again, into the place where packets wait. From there on all of them wait, and are
//! joined when the last is in.
//!
//! Memory does not grow with the file: two pieces, and a few bytes for each packet (65,535 at most). Neither does the
//! disk beyond what was announced: the file once, and [`SPOOLED_TIMES`] its size of packets that waited.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{PIECE_BYTES, Payload, Problem, refused};
use crate::base::zeros::resize_zeroed;
use crate::crypto::{FileDecryptor, FileEncryptor, PosixCksum, Secret, crc32, file_ciphertext_bytes};
use crate::protocol::legacy::{FileName, FilePacket};
use crate::storage::PutFile;

/// How many times a file's size its waiting and replaced packets may have in all.
const SPOOLED_TIMES: u64 = 8;

/// How much plaintext is gathered before it is summed and written.
const GATHERED_BYTES: usize = 32 * 1024;

/// What 1603 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub ciphertext_bytes: u32,
    pub checksum: u32,
}

/// A file of which packet 1 has come.
pub struct Transfer {
    upload: PutFile,
    file_key: Arc<Secret<32>>,
    name: FileName,
    original_bytes: u32,
    total: u16,
    /// Most bytes of ciphertext that a file of this size has.
    ciphertext_bytes_max: u32,
    stream: Stream,
    /// The packets that have been decrypted, from the first on.
    joined: Vec<Packet>,
    waiting: BTreeMap<u16, Waiting>,
    /// Ciphertext of all packets that are here.
    ciphertext_bytes: u64,
    /// What has been put where packets wait, in all.
    spooled: u64,
    /// A packet was replaced after it had been decrypted: from then on all packets wait until the last is here, so
    /// that each further one that is replaced costs no more than its own bytes.
    joins_at_end: bool,
}

/// A packet as far as it has to be known again: its length, and a sum of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packet {
    bytes: u32,
    sum: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    offset: u64,
    packet: Packet,
}

/// The plaintext as it comes out.
struct Stream {
    decryptor: FileDecryptor,
    checksum: PosixCksum,
    plaintext: Vec<u8>,
    written: u64,
}

impl Stream {
    fn new(file_key: &Secret<32>) -> Stream {
        let (decryptor, checksum) = (FileDecryptor::new(file_key), PosixCksum::new());
        Stream { decryptor, checksum, plaintext: Vec::new(), written: 0 }
    }

    /// Takes the next ciphertext. What comes out is gathered, so that small packets are not small writes.
    fn take(&mut self, ciphertext: &[u8], upload: &mut PutFile) -> Result<(), Problem> {
        self.decryptor.update(ciphertext, &mut self.plaintext);
        if self.plaintext.len() >= GATHERED_BYTES { self.write(upload) } else { Ok(()) }
    }

    fn write(&mut self, upload: &mut PutFile) -> Result<(), Problem> {
        self.checksum.update(&self.plaintext);
        upload.write(&self.plaintext)?;
        self.written += self.plaintext.len() as u64;
        self.plaintext.clear();
        Ok(())
    }

    /// Takes the padding off; gives the checksum of the whole.
    fn finish(mut self, upload: &mut PutFile) -> Result<u32, Problem> {
        self.write(upload)?;
        let Stream { decryptor, mut checksum, mut plaintext, .. } = self;
        decryptor.finish(&mut plaintext).map_err(|error| refused(error.to_string()))?;
        checksum.update(&plaintext);
        upload.write(&plaintext)?;
        upload.end_content()?;
        Ok(checksum.finish())
    }
}

impl Packet {
    const EMPTY: Packet = Packet { bytes: 0, sum: 0 };

    /// Adds the next piece. Packets are cut into pieces alike.
    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u32;
        self.sum = self.sum.rotate_left(7) ^ u64::from(crc32(piece));
    }
}

impl Transfer {
    /// Begins a file with what its first packet says of it.
    pub fn begin(
        mut upload: PutFile,
        file_key: &Arc<Secret<32>>,
        packet: &FilePacket,
        name: &FileName,
    ) -> Result<Transfer, Problem> {
        let most = file_ciphertext_bytes(u64::from(packet.original_bytes));
        let ciphertext_bytes_max =
            u32::try_from(most).map_err(|_| refused(format!("{name} is larger than an answer can say")))?;
        upload.begin_content()?;
        upload.clear_spool()?;
        Ok(Transfer {
            upload,
            file_key: file_key.clone(),
            name: name.clone(),
            original_bytes: packet.original_bytes,
            total: packet.total,
            ciphertext_bytes_max,
            stream: Stream::new(file_key),
            joined: Vec::new(),
            waiting: BTreeMap::new(),
            ciphertext_bytes: 0,
            spooled: 0,
            joins_at_end: false,
        })
    }

    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// What the file goes into.
    pub fn into_upload(self) -> PutFile {
        self.upload
    }

    /// Takes a packet in; gives what is to be said when it was the last one missing.
    pub fn take(
        &mut self,
        packet: &FilePacket,
        name: &FileName,
        payload: &mut Payload<'_>,
    ) -> Result<Option<Received>, Problem> {
        self.check(packet, name)?;
        self.ciphertext_bytes += u64::from(packet.content_bytes);
        self.ciphertext_bytes -= self.bytes_of(packet.number);
        if self.ciphertext_bytes > u64::from(self.ciphertext_bytes_max) {
            return Err(refused(format!("{name} has more ciphertext than its size allows")));
        }
        match usize::from(packet.number) == self.joined.len() + 1 && !self.joins_at_end {
            true => self.join(payload)?,
            false => self.set_aside(packet, payload)?,
        }
        if !self.joins_at_end || self.waiting.len() == usize::from(self.total) {
            self.join_waiting()?;
        }
        if self.joined.len() < usize::from(self.total) {
            return Ok(None);
        }
        let stream = std::mem::replace(&mut self.stream, Stream::new(&self.file_key));
        let checksum = stream.finish(&mut self.upload)?;
        Ok(Some(Received { ciphertext_bytes: self.ciphertext_bytes as u32, checksum }))
    }

    fn check(&self, packet: &FilePacket, name: &FileName) -> Result<(), Problem> {
        match (name, packet.total, packet.original_bytes) == (&self.name, self.total, self.original_bytes) {
            true => Ok(()),
            false => Err(refused(format!(
                "packet {} of {name} says other than packet 1 of {}",
                packet.number, self.name
            ))),
        }
    }

    /// What is here of this packet.
    fn bytes_of(&self, number: u16) -> u64 {
        let waiting = self.waiting.get(&number).map(|waiting| waiting.packet);
        let packet = waiting.or(self.joined.get(usize::from(number) - 1).copied());
        packet.map_or(0, |packet| u64::from(packet.bytes))
    }

    fn join(&mut self, payload: &mut Payload<'_>) -> Result<(), Problem> {
        let mut joined = Packet::EMPTY;
        while let Some(piece) = payload.next()? {
            joined.add(piece);
            self.stream.take(piece, &mut self.upload)?;
        }
        self.joined.push(joined);
        Ok(())
    }

    /// Keeps a packet that is not next: one that is too early, or one that was joined and comes again.
    fn set_aside(&mut self, packet: &FilePacket, payload: &mut Payload<'_>) -> Result<(), Problem> {
        let number = packet.number;
        self.count_spooled(u64::from(packet.content_bytes))?;
        let spool = self.upload.spool()?;
        let (offset, mut set_aside) = (spool.bytes(), Packet::EMPTY);
        while let Some(piece) = payload.next()? {
            set_aside.add(piece);
            spool.append(piece)?;
        }
        match self.joined.get(usize::from(number) - 1) {
            Some(joined) if *joined == set_aside => return Ok(spool.cut_back(offset)?),
            Some(_) => self.unjoin()?,
            None => {}
        }
        self.waiting.insert(number, Waiting { offset, packet: set_aside });
        Ok(())
    }

    fn count_spooled(&mut self, bytes: u64) -> Result<(), Problem> {
        self.spooled += bytes;
        match self.spooled > SPOOLED_TIMES * u64::from(self.ciphertext_bytes_max) {
            true => Err(refused(format!("too many packets of {} come again or out of order", self.name))),
            false => Ok(()),
        }
    }

    /// Makes all that was joined wait again. Its ciphertext is made of the plaintext: key and IV are known.
    fn unjoin(&mut self) -> Result<(), Problem> {
        let joined = std::mem::take(&mut self.joined);
        let mut stream = std::mem::replace(&mut self.stream, Stream::new(&self.file_key));
        stream.write(&mut self.upload)?;
        self.count_spooled(joined.iter().map(|packet| u64::from(packet.bytes)).sum())?;
        let mut offset = self.upload.spool()?.bytes();
        let mut written = self.upload.written()?;
        let mut encryptor = FileEncryptor::new(&self.file_key);
        let (mut done, mut plaintext, mut ciphertext) = (0, Vec::new(), Vec::new());
        while done < stream.written {
            resize_zeroed(&mut plaintext, (stream.written - done).min(PIECE_BYTES as u64) as usize);
            written.read_at(&mut plaintext, done)?;
            ciphertext.clear();
            encryptor.update(&plaintext, &mut ciphertext);
            self.upload.spool()?.append(&ciphertext)?;
            done += plaintext.len() as u64;
        }
        self.upload.spool()?.append(stream.decryptor.held())?;
        for (number, packet) in (1..).zip(joined) {
            self.waiting.insert(number, Waiting { offset, packet });
            offset += u64::from(packet.bytes);
        }
        self.joins_at_end = true;
        Ok(self.upload.begin_content()?)
    }

    /// Joins the packets that have waited for their turn.
    fn join_waiting(&mut self) -> Result<(), Problem> {
        let next = |joined: &Vec<Packet>| u16::try_from(joined.len() + 1).ok();
        let mut piece = Vec::new();
        while let Some(waiting) = next(&self.joined).and_then(|next| self.waiting.remove(&next)) {
            let bytes = u64::from(waiting.packet.bytes);
            let mut done = 0;
            while done < bytes {
                resize_zeroed(&mut piece, (bytes - done).min(PIECE_BYTES as u64) as usize);
                self.upload.spool()?.read_at(&mut piece, waiting.offset + done)?;
                self.stream.take(&piece, &mut self.upload)?;
                done += piece.len() as u64;
            }
            self.joined.push(waiting.packet);
        }
        if self.waiting.is_empty() {
            self.upload.clear_spool()?;
        }
        Ok(())
    }
}
