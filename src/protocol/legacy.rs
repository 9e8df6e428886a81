//! The legacy dialect: the messages of the peers that were installed before the native one.
//!
//! Fields have fixed sizes, so every message has a length that its header can be checked against before anything is
//! read. The one exception is a file packet (1028): its fixed part, [`FilePacket`], is decoded by itself, so that
//! whoever receives it can stream the ciphertext behind it.
//!
//! Names arrive as [`NameField`]s, which are just bytes; [`NameField::file_name`] and [`NameField::user_name`] are
//! the only ways to make something of them.

use std::fmt;
use std::ops::RangeInclusive;

use super::header::{RequestHeader, ResponseHeader};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::{ClientId, IdError, UserName};

/// Codes an older client begins a connection with.
pub const REQUEST_CODES: RangeInclusive<u16> = 1025..=1031;
/// Codes an older server answers with.
pub const RESPONSE_CODES: RangeInclusive<u16> = 1600..=1607;
/// `RESP_GENERIC_SERVER_ERROR`: the one answer to whatever is not understood, in either dialect.
pub const GENERAL_ERROR: u16 = 1607;
/// A greeting that some older servers send before anything is asked.
pub const GREETING: u16 = 0;
/// The version byte of every deployed peer.
pub const VERSION: u8 = 3;
/// The version bytes that are understood: 3 is protocol 3.0, 2 is the 2.5+ line, which has the same messages.
pub const VERSIONS: RangeInclusive<u8> = 2..=3;

/// A name on the wire, with its NUL.
pub const NAME_FIELD_BYTES: usize = 255;
/// The longest name of a file, in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 250;
/// Before the ciphertext of a file packet.
pub const FILE_PACKET_FIXED_BYTES: usize = 4 + 4 + 2 + 2 + NAME_FIELD_BYTES;
/// The longest payload of a request; known servers refuse more.
pub const REQUEST_PAYLOAD_BYTES_MAX: u32 = 16 * 1024 * 1024 + 1_024;
/// The most ciphertext in one packet.
pub const PACKET_CONTENT_BYTES_MAX: u32 = REQUEST_PAYLOAD_BYTES_MAX - FILE_PACKET_FIXED_BYTES as u32;
/// The longest payload of a response: [`Response::FileReceived`].
pub const RESPONSE_PAYLOAD_BYTES_MAX: u32 = 16 + 4 + NAME_FIELD_BYTES as u32 + 4;
/// The lengths of a public key of 1,024 bits with the exponents 17 and 65537.
pub const PUBLIC_KEY_BYTES: [usize; 2] = [160, 162];
/// An AES key under RSA-OAEP.
pub const WRAPPED_KEY_BYTES: usize = 128;
/// How often a file is sent in all where the checksums differ.
pub const FILE_TRIES_MAX: u32 = 3;

/// Codes of requests.
pub mod request_code {
    pub const REGISTER: u16 = 1025;
    pub const SEND_KEY: u16 = 1026;
    pub const RECONNECT: u16 = 1027;
    /// One packet of a file; see [`FilePacket`](super::FilePacket).
    pub const FILE_PACKET: u16 = 1028;
    pub const CRC_MATCHED: u16 = 1029;
    pub const CRC_DIFFERS: u16 = 1030;
    pub const CRC_GIVING_UP: u16 = 1031;
}

/// Codes of responses.
pub mod response_code {
    pub const REGISTERED: u16 = 1600;
    pub const REGISTRATION_REFUSED: u16 = 1601;
    pub const KEY_TAKEN: u16 = 1602;
    pub const FILE_RECEIVED: u16 = 1603;
    pub const ACKNOWLEDGED: u16 = 1604;
    pub const RECONNECTED: u16 = 1605;
    pub const RECONNECT_REFUSED: u16 = 1606;
    pub const GENERAL_ERROR: u16 = super::GENERAL_ERROR;
}

/// A name as it travels: NUL-terminated, the rest zeros. It may hold anything.
#[derive(Clone, PartialEq, Eq)]
pub struct NameField([u8; NAME_FIELD_BYTES]);

impl NameField {
    /// The field of a name, where it fits: at most 254 bytes, none of them NUL.
    pub fn new(name: &[u8]) -> Option<NameField> {
        if name.len() >= NAME_FIELD_BYTES || name.contains(&0) {
            return None;
        }
        let mut field = [0; NAME_FIELD_BYTES];
        field[..name.len()].copy_from_slice(name);
        Some(NameField(field))
    }

    pub fn from_bytes(bytes: [u8; NAME_FIELD_BYTES]) -> NameField {
        NameField(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; NAME_FIELD_BYTES] {
        &self.0
    }

    /// The bytes before the NUL; none where there is no NUL, or anything but zeros behind it.
    fn name(&self) -> Option<&[u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        rest.iter().all(|byte| *byte == 0).then_some(name)
    }

    /// The name of a file, if it is a safe one.
    ///
    /// # Errors
    /// [`UnsafeFileName`], whatever is wrong with it.
    pub fn file_name(&self) -> Result<FileName, UnsafeFileName> {
        FileName::new(self.name().ok_or(UnsafeFileName)?)
    }

    /// The name of a user, if it is one that the native dialect allows as well.
    ///
    /// # Errors
    /// [`IdError`] with what is wrong with it.
    pub fn user_name(&self) -> Result<UserName, IdError> {
        let text = self.name().and_then(|name| std::str::from_utf8(name).ok());
        text.ok_or(IdError { what: "user name", problem: "it is no NUL-terminated text in UTF-8" })?.parse()
    }

    fn read(reader: &mut Reader<'_>) -> Result<NameField, DecodeError> {
        Ok(NameField(reader.array("name field")?))
    }
}

impl fmt::Debug for NameField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_FIELD_BYTES);
        write!(formatter, "NameField({:?})", String::from_utf8_lossy(&self.0[..end]))
    }
}

/// The name of a file that is safe to use as one: 1 to 250 bytes, no separator of any system, no control character,
/// neither `.` nor `..`. It need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(Vec<u8>);

/// A file name that must not be used. One error for all causes: the answer is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsafeFileName;

impl fmt::Display for UnsafeFileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "an unsafe file name: it is empty, \".\" or \"..\", longer than 250 bytes, or has a separator, a NUL or a \
             control character",
        )
    }
}

impl std::error::Error for UnsafeFileName {}

impl FileName {
    pub fn new(name: &[u8]) -> Result<FileName, UnsafeFileName> {
        let has_control = match std::str::from_utf8(name) {
            Ok(text) => text.chars().any(char::is_control),
            Err(_) => name.iter().any(u8::is_ascii_control),
        };
        let has_separator = name.iter().any(|byte| matches!(byte, b'/' | b'\\'));
        let is_usual = (1..=FILE_NAME_BYTES_MAX).contains(&name.len()) && name != b"." && name != b"..";
        if has_control || has_separator || !is_usual {
            return Err(UnsafeFileName);
        }
        Ok(FileName(name.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as a field of a message.
    pub fn field(&self) -> NameField {
        NameField::new(&self.0).expect("a file name has at most 250 bytes and no NUL")
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FileName({:?})", String::from_utf8_lossy(&self.0))
    }
}

/// The payload sizes that a request with this code can have; none for a code that no request of the dialect has.
pub fn request_payload_bytes(code: u16) -> Option<RangeInclusive<u32>> {
    let [short_key, long_key] = PUBLIC_KEY_BYTES.map(|bytes| (NAME_FIELD_BYTES + bytes) as u32);
    match code {
        request_code::SEND_KEY => Some(short_key..=long_key),
        request_code::FILE_PACKET => Some(FILE_PACKET_FIXED_BYTES as u32..=REQUEST_PAYLOAD_BYTES_MAX),
        code if REQUEST_CODES.contains(&code) => Some(NAME_FIELD_BYTES as u32..=NAME_FIELD_BYTES as u32),
        _ => None,
    }
}

/// What a client asks, beside the packets of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// 1025: a new client; the header's id is ignored.
    Register { name: NameField },
    /// 1026: the client's RSA key, SubjectPublicKeyInfo DER of [`PUBLIC_KEY_BYTES`].
    SendKey { name: NameField, public_key: Vec<u8> },
    /// 1027: a client that was here before.
    Reconnect { name: NameField },
    /// 1029: the file arrived as it was sent.
    CrcMatched { file: NameField },
    /// 1030: it did not; it is sent again.
    CrcDiffers { file: NameField },
    /// 1031: it did not, and is given up.
    CrcGivingUp { file: NameField },
}

impl Request {
    pub fn code(&self) -> u16 {
        match self {
            Request::Register { .. } => request_code::REGISTER,
            Request::SendKey { .. } => request_code::SEND_KEY,
            Request::Reconnect { .. } => request_code::RECONNECT,
            Request::CrcMatched { .. } => request_code::CRC_MATCHED,
            Request::CrcDiffers { .. } => request_code::CRC_DIFFERS,
            Request::CrcGivingUp { .. } => request_code::CRC_GIVING_UP,
        }
    }

    /// The whole message, header included.
    pub fn encode(&self, client: ClientId) -> Vec<u8> {
        let (name, key): (&NameField, &[u8]) = match self {
            Request::SendKey { name, public_key } => (name, public_key),
            Request::Register { name } | Request::Reconnect { name } => (name, &[]),
            Request::CrcMatched { file } | Request::CrcDiffers { file } | Request::CrcGivingUp { file } => {
                (file, &[])
            }
        };
        let payload_bytes = (NAME_FIELD_BYTES + key.len()) as u32;
        let mut out = Vec::new();
        RequestHeader { client, version: VERSION, code: self.code(), payload_bytes }.encode(&mut out);
        out.put_bytes(name.as_bytes());
        out.put_bytes(key);
        out
    }

    /// What a payload with this code says.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for a code without such a payload, [`FilePacket`]s among them.
    pub fn decode(code: u16, payload: &[u8]) -> Result<Request, DecodeError> {
        let mut reader = Reader::new(payload);
        let name = NameField::read(&mut reader)?;
        let request = match code {
            request_code::REGISTER => Request::Register { name },
            request_code::SEND_KEY => Request::SendKey { name, public_key: read_public_key(&mut reader)? },
            request_code::RECONNECT => Request::Reconnect { name },
            request_code::CRC_MATCHED => Request::CrcMatched { file: name },
            request_code::CRC_DIFFERS => Request::CrcDiffers { file: name },
            request_code::CRC_GIVING_UP => Request::CrcGivingUp { file: name },
            _ => return Err(DecodeError::Invalid { what: "request code" }),
        };
        reader.finish("request")?;
        Ok(request)
    }
}

fn read_public_key(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let key = reader.rest();
    match PUBLIC_KEY_BYTES.contains(&key.len()) {
        true => Ok(key.to_vec()),
        false => Err(DecodeError::Invalid { what: "public key length" }),
    }
}

/// 1028 without its ciphertext: `content size u32 · original size u32 · number u16 · total u16 · name [255]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePacket {
    /// How many bytes of ciphertext follow in this packet.
    pub content_bytes: u32,
    /// The size of the whole file, before encryption.
    pub original_bytes: u32,
    /// From 1 to `total`.
    pub number: u16,
    /// How many packets the file takes.
    pub total: u16,
    pub file: NameField,
}

impl FilePacket {
    /// Appends the header and the fixed part; the ciphertext follows.
    pub fn encode(&self, client: ClientId, out: &mut Vec<u8>) {
        let payload_bytes = FILE_PACKET_FIXED_BYTES as u32 + self.content_bytes;
        let code = request_code::FILE_PACKET;
        RequestHeader { client, version: VERSION, code, payload_bytes }.encode(out);
        out.put_u32(self.content_bytes);
        out.put_u32(self.original_bytes);
        out.put_u16(self.number);
        out.put_u16(self.total);
        out.put_bytes(self.file.as_bytes());
    }

    /// Reads the fixed part of a payload of `payload_bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] where the content's size is not what is left of the payload, or the number is not within
    /// the total.
    pub fn decode(payload_bytes: u32, fixed: &[u8; FILE_PACKET_FIXED_BYTES]) -> Result<FilePacket, DecodeError> {
        let mut reader = Reader::new(fixed);
        let packet = FilePacket {
            content_bytes: reader.u32("content size")?,
            original_bytes: reader.u32("original size")?,
            number: reader.u16("packet number")?,
            total: reader.u16("total packets")?,
            file: NameField::read(&mut reader)?,
        };
        reader.finish("file packet")?;
        if payload_bytes.checked_sub(FILE_PACKET_FIXED_BYTES as u32) != Some(packet.content_bytes) {
            return Err(DecodeError::Invalid { what: "content size" });
        }
        if !(1..=packet.total).contains(&packet.number) {
            return Err(DecodeError::Invalid { what: "packet number" });
        }
        Ok(packet)
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// 1600: the client has this id from now on.
    Registered { client: ClientId },
    /// 1601: the name is taken or not acceptable. The connection stays open.
    RegistrationRefused,
    /// 1602: the session's AES key, wrapped for the key that was sent.
    KeyTaken { client: ClientId, wrapped_key: [u8; WRAPPED_KEY_BYTES] },
    /// 1603: all packets of a file are in.
    FileReceived { client: ClientId, ciphertext_bytes: u32, file: NameField, checksum: u32 },
    /// 1604: the answer to 1029, 1030 and 1031.
    Acknowledged { client: ClientId },
    /// 1605: as 1602, for a client that was here before.
    Reconnected { client: ClientId, wrapped_key: [u8; WRAPPED_KEY_BYTES] },
    /// 1606: the id is unknown, or the name is not its own.
    ReconnectRefused { client: ClientId },
    /// 1607: anything else that went wrong.
    GeneralError,
}

impl Response {
    pub fn code(&self) -> u16 {
        match self {
            Response::Registered { .. } => response_code::REGISTERED,
            Response::RegistrationRefused => response_code::REGISTRATION_REFUSED,
            Response::KeyTaken { .. } => response_code::KEY_TAKEN,
            Response::FileReceived { .. } => response_code::FILE_RECEIVED,
            Response::Acknowledged { .. } => response_code::ACKNOWLEDGED,
            Response::Reconnected { .. } => response_code::RECONNECTED,
            Response::ReconnectRefused { .. } => response_code::RECONNECT_REFUSED,
            Response::GeneralError => response_code::GENERAL_ERROR,
        }
    }

    /// The whole message, header included.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        match self {
            Response::RegistrationRefused | Response::GeneralError => {}
            Response::Registered { client }
            | Response::Acknowledged { client }
            | Response::ReconnectRefused { client } => payload.put_bytes(client.as_bytes()),
            Response::KeyTaken { client, wrapped_key } | Response::Reconnected { client, wrapped_key } => {
                payload.put_bytes(client.as_bytes());
                payload.put_bytes(wrapped_key);
            }
            Response::FileReceived { client, ciphertext_bytes, file, checksum } => {
                payload.put_bytes(client.as_bytes());
                payload.put_u32(*ciphertext_bytes);
                payload.put_bytes(file.as_bytes());
                payload.put_u32(*checksum);
            }
        }
        let mut out = Vec::new();
        ResponseHeader { version: VERSION, code: self.code(), payload_bytes: payload.len() as u32 }
            .encode(&mut out);
        out.put_bytes(&payload);
        out
    }

    /// What a payload with this code says.
    pub fn decode(code: u16, payload: &[u8]) -> Result<Response, DecodeError> {
        let mut reader = Reader::new(payload);
        let client = |reader: &mut Reader<'_>| Ok(ClientId::from_bytes(reader.array("client id")?));
        let wrapped_key = |reader: &mut Reader<'_>| reader.array("wrapped key");
        let response = match code {
            response_code::REGISTERED => Response::Registered { client: client(&mut reader)? },
            response_code::REGISTRATION_REFUSED => Response::RegistrationRefused,
            response_code::KEY_TAKEN => {
                Response::KeyTaken { client: client(&mut reader)?, wrapped_key: wrapped_key(&mut reader)? }
            }
            response_code::FILE_RECEIVED => Response::FileReceived {
                client: client(&mut reader)?,
                ciphertext_bytes: reader.u32("ciphertext size")?,
                file: NameField::read(&mut reader)?,
                checksum: reader.u32("checksum")?,
            },
            response_code::ACKNOWLEDGED => Response::Acknowledged { client: client(&mut reader)? },
            response_code::RECONNECTED => {
                Response::Reconnected { client: client(&mut reader)?, wrapped_key: wrapped_key(&mut reader)? }
            }
            response_code::RECONNECT_REFUSED => Response::ReconnectRefused { client: client(&mut reader)? },
            response_code::GENERAL_ERROR => Response::GeneralError,
            _ => return Err(DecodeError::Invalid { what: "response code" }),
        };
        reader.finish("response")?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
