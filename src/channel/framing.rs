//! How sealed segments are framed in each direction, and which headers a segment can have.

use super::error::ChannelError;
use crate::crypto::{Direction, Kind, is_possible_payload, sealed_payload_bytes};
use crate::protocol::control::CONTROL_BYTES_MAX;
use crate::protocol::header::{
    REQUEST_HEADER_BYTES, RESPONSE_HEADER_BYTES, RequestHeader, ResponseHeader, VERSION, code,
};

/// How segments of one direction are framed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    direction: Direction,
    pub header_bytes: usize,
    pub data_code: u16,
    pub control_code: u16,
}

impl Framing {
    pub fn of(direction: Direction) -> Framing {
        match direction {
            Direction::ClientToServer => Framing {
                direction,
                header_bytes: REQUEST_HEADER_BYTES,
                data_code: code::REQUEST_DATA,
                control_code: code::REQUEST_CONTROL,
            },
            Direction::ServerToClient => Framing {
                direction,
                header_bytes: RESPONSE_HEADER_BYTES,
                data_code: code::RESPONSE_DATA,
                control_code: code::RESPONSE_CONTROL,
            },
        }
    }

    pub fn put_header(&self, out: &mut Vec<u8>, code: u16, payload_bytes: usize) {
        match self.direction {
            Direction::ClientToServer => RequestHeader::native(code, payload_bytes).encode(out),
            Direction::ServerToClient => ResponseHeader::native(code, payload_bytes).encode(out),
        }
    }

    /// Kind and payload length in a header, if it is one that a segment can have.
    pub fn read_header(&self, header: &[u8]) -> Result<(Kind, usize), ChannelError> {
        let (version, code, payload_bytes) = match self.direction {
            Direction::ClientToServer => {
                let header = RequestHeader::decode(header.try_into().map_err(|_| ChannelError::BadHeader)?);
                (header.version, header.code, header.payload_bytes as usize)
            }
            Direction::ServerToClient => {
                let header = ResponseHeader::decode(header.try_into().map_err(|_| ChannelError::BadHeader)?);
                (header.version, header.code, header.payload_bytes as usize)
            }
        };
        let kind = match code {
            _ if version != VERSION || !is_possible_payload(payload_bytes) => return Err(ChannelError::BadHeader),
            code if code == self.data_code => Kind::Data,
            code if code == self.control_code => Kind::Control,
            _ => return Err(ChannelError::BadHeader),
        };
        if kind == Kind::Control && payload_bytes > sealed_payload_bytes(CONTROL_BYTES_MAX) {
            return Err(ChannelError::BadHeader);
        }
        Ok((kind, payload_bytes))
    }
}
