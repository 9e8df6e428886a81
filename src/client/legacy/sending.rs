//! One file on its way to a legacy server: packets, the comparison of checksums, and the tries.
//!
//! A packet says how long the whole file is, and the server waits for exactly that. So the last packet, which always
//! holds at least the padding, is sent only when it is known that the file kept its size. A file that changed while
//! it was read is read once more: its first packet makes the server forget the packets before it.

use std::time::Duration;

use super::Progress;
use super::error::LegacyError;
use super::line::LegacyLine;
use crate::base::ids::ClientId;
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::base::progress::ProgressSink;
use crate::client::source::{SourceError, SourceFile};
use crate::crypto::{ContentHasher, ContentSums, FileEncryptor, PosixCksum, Secret, file_ciphertext_bytes};
use crate::protocol::header::REQUEST_HEADER_BYTES;
use crate::protocol::legacy::{FILE_PACKET_FIXED_BYTES, FILE_TRIES_MAX, FileName, FilePacket, Request, Response};

/// The largest file: its ciphertext has a length of 32 bits.
pub(super) const FILE_BYTES_MAX: u64 = u32::MAX as u64 - 16;
/// The slowest server that is waited for while it decrypts and sums a file.
const SUMMED_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// What stands before the ciphertext of a packet.
const PACKET_HEAD_BYTES: usize = REQUEST_HEADER_BYTES + FILE_PACKET_FIXED_BYTES;

/// Who sends, over what.
pub(super) struct Sending<'a> {
    pub line: &'a mut LegacyLine,
    pub client: ClientId,
    pub key: &'a Secret<32>,
    /// Ciphertext in one packet.
    pub packet_bytes: u32,
    pub sink: &'a dyn ProgressSink,
    pub progress: &'a mut Progress,
}

/// How a file ended.
pub(super) enum FileEnd {
    Confirmed {
        sums: ContentSums,
        /// What was sent may be a state that the file never had.
        changed: bool,
    },
    Unreadable(SourceError),
    LeftOut(&'static str),
}

/// How one reading of a file ended.
enum Reading {
    /// All packets are sent.
    Whole {
        sums: ContentSums,
        checksum: u32,
        changed: bool,
    },
    /// It changed, and the last packet was not sent.
    Changed,
    End(FileEnd),
}

impl Sending<'_> {
    /// Sends a file until the server has it as it was read, or is not going to.
    pub fn send(&mut self, mut file: SourceFile, name: &FileName) -> Result<FileEnd, LegacyError> {
        let (mut damaged, mut is_read_again) = (0, false);
        loop {
            match self.read(&mut file, name, is_read_again)? {
                Reading::End(end) => return Ok(end),
                Reading::Changed => is_read_again = true,
                Reading::Whole { sums, checksum, changed } => {
                    if self.is_received(name, sums.size, checksum)? {
                        self.tell(Request::CrcMatched { file: name.field() })?;
                        return Ok(FileEnd::Confirmed { sums, changed });
                    }
                    damaged += 1;
                    if damaged == FILE_TRIES_MAX {
                        self.tell(Request::CrcGivingUp { file: name.field() })?;
                        return Ok(FileEnd::LeftOut("it arrived at the server damaged three times"));
                    }
                    self.tell(Request::CrcDiffers { file: name.field() })?;
                    is_read_again = false;
                }
            }
            file = match file.restart() {
                Ok(file) => file,
                Err(error) => return Ok(FileEnd::Unreadable(error)),
            };
        }
    }

    /// Reads the file once and sends it; all but the last packet where it changed and may be read again.
    fn read(
        &mut self,
        file: &mut SourceFile,
        name: &FileName,
        is_read_again: bool,
    ) -> Result<Reading, LegacyError> {
        if file.size() > FILE_BYTES_MAX {
            return Ok(Reading::End(FileEnd::LeftOut("the legacy dialect carries no file of 4 GiB or more")));
        }
        let mut packets = Packets::new(file.size(), self.packet_bytes, name);
        let mut chunk = vec![0; CONTENT_CHUNK_BYTES.min(packets.content_bytes.max(16))];
        let mut encryptor = FileEncryptor::new(self.key);
        let (mut hasher, mut checksum) = (ContentHasher::new(), PosixCksum::new());
        self.progress.begin_file();
        loop {
            let plaintext = match file.read_into(&mut chunk) {
                Ok(0) => break,
                Ok(count) => &chunk[..count],
                Err(error) => return Ok(Reading::End(FileEnd::Unreadable(error))),
            };
            hasher.update(plaintext);
            checksum.update(plaintext);
            encryptor.update(plaintext, &mut packets.buffer);
            while packets.waiting() >= packets.content_bytes {
                self.send_packet(&mut packets)?;
            }
            self.progress.file_bytes(self.sink, hasher.size());
        }
        let changed = match file.check() {
            Ok(seen) => seen.changed,
            Err(error) => return Ok(Reading::End(FileEnd::Unreadable(error))),
        };
        if changed && !is_read_again {
            return Ok(Reading::Changed);
        }
        if hasher.size() != file.size() {
            return Ok(Reading::End(FileEnd::LeftOut("it became shorter while it was read, twice")));
        }
        encryptor.finish(&mut packets.buffer);
        while packets.waiting() > 0 {
            self.send_packet(&mut packets)?;
        }
        Ok(Reading::Whole { sums: hasher.finish(), checksum: checksum.finish(), changed })
    }

    fn send_packet(&mut self, packets: &mut Packets<'_>) -> Result<(), LegacyError> {
        if self.line.has_answer() {
            return Err(unexpected(self.line.receive(Duration::ZERO)?));
        }
        self.line.send(packets.next(self.client))?;
        packets.forget_sent();
        Ok(())
    }

    /// Waits for the server's checksum and compares it.
    fn is_received(&mut self, name: &FileName, bytes: u64, checksum: u32) -> Result<bool, LegacyError> {
        match self.line.receive(Duration::from_secs(bytes / SUMMED_BYTES_PER_SECOND))? {
            Response::FileReceived { checksum: found, .. } => {
                if found != checksum {
                    log::warn!("{name}: the server has the checksum {found}, not {checksum}");
                }
                Ok(found == checksum)
            }
            other => Err(unexpected(other)),
        }
    }

    /// Tells the verdict and waits for its acknowledgement.
    fn tell(&mut self, verdict: Request) -> Result<(), LegacyError> {
        self.line.send(&verdict.encode(self.client))?;
        match self.line.receive(Duration::ZERO)? {
            Response::Acknowledged { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

/// An answer that is not the one that was asked for.
pub(super) fn unexpected(response: Response) -> LegacyError {
    match response {
        Response::GeneralError => LegacyError::GeneralError,
        other => LegacyError::OutOfPlace { code: other.code() },
    }
}

/// The packets of one reading of a file. The ciphertext gathers behind room for a packet's head.
struct Packets<'a> {
    name: &'a FileName,
    original_bytes: u32,
    content_bytes: usize,
    total: u16,
    sent: u16,
    buffer: Vec<u8>,
}

impl Packets<'_> {
    /// `file_bytes` is at most [`FILE_BYTES_MAX`]. Packets grow where there would be too many of them.
    fn new(file_bytes: u64, packet_bytes: u32, name: &FileName) -> Packets<'_> {
        let ciphertext_bytes = file_ciphertext_bytes(file_bytes);
        let content_bytes = u64::from(packet_bytes).max(ciphertext_bytes.div_ceil(u64::from(u16::MAX)));
        Packets {
            name,
            original_bytes: u32::try_from(file_bytes).expect("checked to be below 4 GiB"),
            content_bytes: content_bytes as usize,
            total: u16::try_from(ciphertext_bytes.div_ceil(content_bytes)).expect("packets have grown"),
            sent: 0,
            buffer: vec![0; PACKET_HEAD_BYTES],
        }
    }

    /// How much ciphertext is here.
    fn waiting(&self) -> usize {
        self.buffer.len() - PACKET_HEAD_BYTES
    }

    /// The next packet, ready to be sent.
    fn next(&mut self, client: ClientId) -> &[u8] {
        let content_bytes = self.next_bytes();
        self.sent += 1;
        let packet = FilePacket {
            content_bytes: content_bytes as u32,
            original_bytes: self.original_bytes,
            number: self.sent,
            total: self.total,
            file: self.name.field(),
        };
        let mut head = Vec::with_capacity(PACKET_HEAD_BYTES);
        packet.encode(client, &mut head);
        self.buffer[..PACKET_HEAD_BYTES].copy_from_slice(&head);
        &self.buffer[..PACKET_HEAD_BYTES + content_bytes]
    }

    /// Drops the ciphertext of the packet that was sent.
    fn forget_sent(&mut self) {
        self.buffer.drain(PACKET_HEAD_BYTES..PACKET_HEAD_BYTES + self.next_bytes());
    }

    fn next_bytes(&self) -> usize {
        self.waiting().min(self.content_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_as_many_packets_as_its_ciphertext_needs() {
        let name = FileName::new(b"x").unwrap();
        for (file_bytes, packet_bytes, content_bytes, total) in [
            (0, 1 << 20, 1 << 20, 1),
            (16, 16, 16, 2),
            (15, 16, 16, 1),
            (100, 1_000, 1_000, 1),
            ((1 << 20) - 1, 1 << 20, 1 << 20, 1),
            (1 << 20, 1 << 20, 1 << 20, 2),
            (1 << 30, 1_000, 16_385, 65_533),
            (FILE_BYTES_MAX, 1 << 20, 1 << 20, 4_096),
            (FILE_BYTES_MAX, 1, 65_537, 65_535),
        ] {
            let packets = Packets::new(file_bytes, packet_bytes, &name);
            assert_eq!((packets.content_bytes, packets.total), (content_bytes, total), "{file_bytes}");
        }
    }

    #[test]
    fn packets_follow_each_other_in_the_buffer() {
        let name = FileName::new(b"x").unwrap();
        let mut packets = Packets::new(40, 32, &name);
        packets.buffer.extend(0..48);
        let first = packets.next(ClientId::NONE).to_vec();
        assert_eq!(first[PACKET_HEAD_BYTES..], (0..32).collect::<Vec<u8>>());
        packets.forget_sent();
        assert_eq!(packets.waiting(), 16);
        let second = packets.next(ClientId::NONE);
        assert_eq!(second[PACKET_HEAD_BYTES..], (32..48).collect::<Vec<u8>>());
        // Content and original size, number and total.
        assert_eq!(second[23..35], [16, 0, 0, 0, 40, 0, 0, 0, 2, 0, 2, 0]);
    }
}
