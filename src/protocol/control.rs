//! What control segments say: acknowledgement, repeats, pings and the close. Each is a kind byte and, for
//! some, a u64; the acknowledgement itself stands in the segment around it.

use crate::base::codec::{DecodeError, Reader, Writer};

/// Longest encoding: kind and one number.
pub const CONTROL_BYTES_MAX: usize = 9;

/// One control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing beyond the acknowledgement that every segment carries.
    Acknowledge,
    /// Data from this sequence on is wanted again.
    RepeatFrom(u64),
    /// What follows begins with this sequence.
    ResumedAt(u64),
    /// "Still here, busy with my own disk."
    Ping,
    /// The sender has sent this many data segments and will send no more.
    Close(u64),
    /// The answer to a close: everything was received.
    Closed,
}

impl Control {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, number) = match self {
            Control::Acknowledge => (1, None),
            Control::RepeatFrom(sequence) => (2, Some(*sequence)),
            Control::ResumedAt(sequence) => (3, Some(*sequence)),
            Control::Ping => (4, None),
            Control::Close(segments) => (5, Some(*segments)),
            Control::Closed => (6, None),
        };
        out.put_u8(kind);
        if let Some(number) = number {
            out.put_u64(number);
        }
    }

    pub fn decode(plaintext: &[u8]) -> Result<Control, DecodeError> {
        let mut reader = Reader::new(plaintext);
        let control = match reader.u8("control kind")? {
            1 => Control::Acknowledge,
            2 => Control::RepeatFrom(reader.u64("repeat from")?),
            3 => Control::ResumedAt(reader.u64("resumed at")?),
            4 => Control::Ping,
            5 => Control::Close(reader.u64("close")?),
            6 => Control::Closed,
            _ => return Err(DecodeError::Invalid { what: "control kind" }),
        };
        reader.finish("control")?;
        Ok(control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_message_is_pinned_and_comes_back() {
        let number = [0x0d, 0, 0, 0, 0, 0, 0, 0];
        let pinned: [(Control, Vec<u8>); 6] = [
            (Control::Acknowledge, vec![1]),
            (Control::RepeatFrom(13), [&[2][..], &number].concat()),
            (Control::ResumedAt(13), [&[3][..], &number].concat()),
            (Control::Ping, vec![4]),
            (Control::Close(13), [&[5][..], &number].concat()),
            (Control::Closed, vec![6]),
        ];
        for (control, bytes) in pinned {
            let mut encoded = Vec::new();
            control.encode(&mut encoded);
            assert_eq!(encoded, bytes);
            assert!(encoded.len() <= CONTROL_BYTES_MAX);
            assert_eq!(Control::decode(&bytes), Ok(control));
            assert!(Control::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(Control::decode(&[0]).is_err());
        assert!(Control::decode(&[]).is_err());
    }
}
