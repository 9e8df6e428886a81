//! The two headers that frame every message: 23 bytes towards the server, 7 bytes towards the client.

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::ClientId;

/// The version byte of the native dialect.
pub const VERSION: u8 = 3;
pub const REQUEST_HEADER_BYTES: usize = 23;
pub const RESPONSE_HEADER_BYTES: usize = 7;

/// Codes of the native dialect. Requests count from 1040, responses from 1640.
pub mod code {
    /// Handshake message 1, client to server.
    pub const CLIENT_HELLO: u16 = 1040;
    /// Handshake message 3, client to server.
    pub const LOGIN: u16 = 1041;
    /// A sealed data segment, client to server.
    pub const REQUEST_DATA: u16 = 1042;
    /// A sealed control segment, client to server.
    pub const REQUEST_CONTROL: u16 = 1043;
    /// Handshake message 2, server to client.
    pub const SERVER_HELLO: u16 = 1640;
    /// Handshake message 4, server to client.
    pub const LOGIN_ANSWER: u16 = 1641;
    /// A sealed data segment, server to client.
    pub const RESPONSE_DATA: u16 = 1642;
    /// A sealed control segment, server to client.
    pub const RESPONSE_CONTROL: u16 = 1643;
    /// In place of any handshake answer: come again later.
    pub const BUSY: u16 = 1644;
    /// In place of any handshake answer: not you, or not so.
    pub const REFUSED: u16 = 1645;
}

/// `client id [16] · version u8 · code u16 · payload size u32`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Zeros in the native dialect: who speaks is shown inside the handshake.
    pub client: ClientId,
    pub version: u8,
    pub code: u16,
    pub payload_bytes: u32,
}

impl RequestHeader {
    pub fn native(code: u16, payload_bytes: usize) -> RequestHeader {
        let payload_bytes = u32::try_from(payload_bytes).expect("every native payload is far below 4 GiB");
        RequestHeader { client: ClientId::NONE, version: VERSION, code, payload_bytes }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.client.as_bytes());
        out.put_u8(self.version);
        out.put_u16(self.code);
        out.put_u32(self.payload_bytes);
    }

    pub fn decode(bytes: &[u8; REQUEST_HEADER_BYTES]) -> RequestHeader {
        let parts = |reader: &mut Reader<'_>| -> Result<RequestHeader, DecodeError> {
            Ok(RequestHeader {
                client: ClientId::from_bytes(reader.array("client id")?),
                version: reader.u8("version")?,
                code: reader.u16("code")?,
                payload_bytes: reader.u32("payload size")?,
            })
        };
        parts(&mut Reader::new(bytes)).expect("23 bytes hold a request header")
    }
}

/// `version u8 · code u16 · payload size u32`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    pub version: u8,
    pub code: u16,
    pub payload_bytes: u32,
}

impl ResponseHeader {
    pub fn native(code: u16, payload_bytes: usize) -> ResponseHeader {
        let payload_bytes = u32::try_from(payload_bytes).expect("every native payload is far below 4 GiB");
        ResponseHeader { version: VERSION, code, payload_bytes }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.version);
        out.put_u16(self.code);
        out.put_u32(self.payload_bytes);
    }

    pub fn decode(bytes: &[u8; RESPONSE_HEADER_BYTES]) -> ResponseHeader {
        let parts = |reader: &mut Reader<'_>| -> Result<ResponseHeader, DecodeError> {
            Ok(ResponseHeader {
                version: reader.u8("version")?,
                code: reader.u16("code")?,
                payload_bytes: reader.u32("payload size")?,
            })
        };
        parts(&mut Reader::new(bytes)).expect("7 bytes hold a response header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_request_header_are_pinned() {
        let header =
            RequestHeader { client: ClientId::from_bytes([7; 16]), version: 3, code: 1042, payload_bytes: 84 };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes, [&[7u8; 16][..], &[3, 0x12, 0x04, 84, 0, 0, 0]].concat());
        assert_eq!(RequestHeader::decode(bytes[..].try_into().unwrap()), header);
    }

    #[test]
    fn the_bytes_of_a_response_header_are_pinned() {
        let header = ResponseHeader::native(code::BUSY, 2);
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(bytes, [3, 0x6c, 0x06, 2, 0, 0, 0]);
        assert_eq!(ResponseHeader::decode(bytes[..].try_into().unwrap()), header);
    }
}
