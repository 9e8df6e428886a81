//! Every message comes back as it was, its bytes are pinned, and names that would do harm are refused.

use proptest::prelude::*;

use super::*;
use crate::base::ids::hex;
use crate::protocol::header::{REQUEST_HEADER_BYTES, RESPONSE_HEADER_BYTES};

const CLIENT: [u8; 16] = [0xC1; 16];

fn client() -> ClientId {
    ClientId::from_bytes(CLIENT)
}

fn field(text: &str) -> NameField {
    NameField::new(text.as_bytes()).unwrap()
}

fn requests() -> Vec<Request> {
    vec![
        Request::Register { name: field("alice") },
        Request::SendKey { name: field("alice"), public_key: vec![0x30; 160] },
        Request::SendKey { name: field("alice"), public_key: vec![0x30; 162] },
        Request::Reconnect { name: field("alice") },
        Request::CrcMatched { file: field("a.txt") },
        Request::CrcDiffers { file: field("a.txt") },
        Request::CrcGivingUp { file: field("a.txt") },
    ]
}

fn responses() -> Vec<Response> {
    let client = client();
    vec![
        Response::Registered { client },
        Response::RegistrationRefused,
        Response::KeyTaken { client, wrapped_key: [7; 128] },
        Response::FileReceived { client, ciphertext_bytes: 16, file: field("a.txt"), checksum: u32::MAX },
        Response::Acknowledged { client },
        Response::Reconnected { client, wrapped_key: [8; 128] },
        Response::ReconnectRefused { client },
        Response::GeneralError,
    ]
}

fn packet() -> FilePacket {
    FilePacket { content_bytes: 5, original_bytes: 1_000_000, number: 2, total: 9, file: field("a.txt") }
}

fn name_of(message: &impl fmt::Debug) -> String {
    format!("{message:?}").split([' ', '(']).next().unwrap_or_default().to_string()
}

/// The bytes of every message, as `tests/testdata/vectors/legacy.txt` pins them.
#[test]
fn the_bytes_of_every_legacy_message_are_pinned() {
    let mut found = String::new();
    for request in requests() {
        found.push_str(&format!("request.{} {}\n", name_of(&request), hex(&request.encode(client()))));
    }
    let mut bytes = Vec::new();
    packet().encode(client(), &mut bytes);
    found.push_str(&format!("request.FilePacket {}\n", hex(&bytes)));
    for response in responses() {
        found.push_str(&format!("response.{} {}\n", name_of(&response), hex(&response.encode())));
    }
    let pinned = include_str!("../../../tests/testdata/vectors/legacy.txt");
    assert!(found == pinned, "the bytes of a legacy message changed; they are now:\n{found}");
}

#[test]
fn every_request_comes_back_as_it_was() {
    for request in requests() {
        let bytes = request.encode(client());
        let (header, payload) = bytes.split_first_chunk::<REQUEST_HEADER_BYTES>().unwrap();
        let header = RequestHeader::decode(header);
        assert_eq!((header.client, header.version, header.code), (client(), 3, request.code()));
        assert_eq!(header.payload_bytes as usize, payload.len());
        assert!(request_payload_bytes(header.code).unwrap().contains(&header.payload_bytes));
        assert_eq!(Request::decode(header.code, payload), Ok(request));
        assert!(Request::decode(header.code, &payload[..payload.len() - 1]).is_err());
        assert!(Request::decode(header.code, &[payload, &[0]].concat()).is_err());
    }
}

#[test]
fn every_response_comes_back_as_it_was() {
    for response in responses() {
        let bytes = response.encode();
        let (header, payload) = bytes.split_first_chunk::<RESPONSE_HEADER_BYTES>().unwrap();
        let header = ResponseHeader::decode(header);
        assert_eq!((header.version, header.code), (3, response.code()));
        assert_eq!(header.payload_bytes as usize, payload.len());
        assert!(header.payload_bytes <= RESPONSE_PAYLOAD_BYTES_MAX);
        assert_eq!(Response::decode(header.code, payload), Ok(response));
        assert!(payload.is_empty() || Response::decode(header.code, &payload[..payload.len() - 1]).is_err());
        assert!(Response::decode(header.code, &[payload, &[0]].concat()).is_err());
    }
}

#[test]
fn messages_have_the_lengths_of_the_dialect() {
    let payload_bytes = |response: &Response| response.encode().len() - RESPONSE_HEADER_BYTES;
    let lengths: Vec<usize> = responses().iter().map(payload_bytes).collect();
    assert_eq!(lengths, [16, 0, 144, 279, 16, 144, 16, 0]);
    assert_eq!(FILE_PACKET_FIXED_BYTES, 267);
    assert_eq!(request_payload_bytes(1025), Some(255..=255));
    assert_eq!(request_payload_bytes(1026), Some(415..=417));
    assert_eq!(request_payload_bytes(1028), Some(267..=16_778_240));
    assert_eq!((request_payload_bytes(1024), request_payload_bytes(1032)), (None, None));
}

#[test]
fn a_packet_is_read_before_its_ciphertext() {
    let mut bytes = Vec::new();
    packet().encode(client(), &mut bytes);
    let (header, fixed) = bytes.split_first_chunk::<REQUEST_HEADER_BYTES>().unwrap();
    let header = RequestHeader::decode(header);
    assert_eq!((header.code, header.payload_bytes), (1028, 267 + 5));
    let fixed: &[u8; FILE_PACKET_FIXED_BYTES] = fixed.try_into().unwrap();
    assert_eq!(FilePacket::decode(267 + 5, fixed), Ok(packet()));
    for payload_bytes in [0, 5, 267, 271, 273] {
        let refused = Err(DecodeError::Invalid { what: "content size" });
        assert_eq!(FilePacket::decode(payload_bytes, fixed), refused);
    }
    assert!(Request::decode(1028, fixed).is_err());
}

#[test]
fn a_packet_beyond_its_total_is_refused() {
    for (number, total, fine) in [(1, 1, true), (9, 9, true), (65_535, 65_535, true), (0, 1, false), (2, 1, false)]
    {
        let mut bytes = Vec::new();
        FilePacket { number, total, ..packet() }.encode(client(), &mut bytes);
        let fixed = bytes[REQUEST_HEADER_BYTES..].try_into().unwrap();
        assert_eq!(FilePacket::decode(272, fixed).is_ok(), fine, "{number} of {total}");
    }
}

#[test]
fn safe_file_names_are_taken() {
    let longest = "x".repeat(250);
    for name in ["a", "a.txt", "...", ".hidden", "a b", "änderung.txt", "CON", longest.as_str()] {
        let file = field(name).file_name().unwrap();
        assert_eq!((file.as_bytes(), file.field()), (name.as_bytes(), field(name)));
    }
    // Latin-1, which older peers send, is no UTF-8 and no harm.
    assert!(NameField::new(b"\xE4nderung.txt").unwrap().file_name().is_ok());
}

#[test]
fn unsafe_file_names_are_refused() {
    let (long, longest) = ("x".repeat(251), "x".repeat(254));
    for name in ["", ".", "..", "../x", "a/b", "/", "a\\b", "a\nb", "\u{7f}", "\u{85}", &long, &longest] {
        assert_eq!(field(name).file_name(), Err(UnsafeFileName), "{name:?}");
    }
    let mut bytes = *field("a").as_bytes();
    bytes[2] = b'b';
    assert_eq!(NameField::from_bytes(bytes).file_name(), Err(UnsafeFileName), "a NUL inside");
    assert_eq!(NameField::from_bytes([b'x'; 255]).file_name(), Err(UnsafeFileName), "no NUL");
}

#[test]
fn user_names_follow_the_native_rules() {
    assert_eq!(field("alice").user_name().unwrap().as_str(), "alice");
    for name in ["", " a", "a\nb", &"x".repeat(101)] {
        assert!(field(name).user_name().is_err(), "{name:?}");
    }
    assert!(NameField::new(b"\xE4").unwrap().user_name().is_err());
}

#[test]
fn a_name_that_does_not_fit_has_no_field() {
    assert!(NameField::new(&[b'x'; 254]).is_some());
    assert!(NameField::new(&[b'x'; 255]).is_none());
    assert!(NameField::new(b"a\0b").is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(code in 1020_u16..1700, body in prop::collection::vec(any::<u8>(), 0..450)) {
        let _ = Request::decode(code, &body);
        let _ = Response::decode(code, &body);
        let fixed = std::array::from_fn(|at| body.get(at).copied().unwrap_or_default());
        let _ = FilePacket::decode(u32::from(code), &fixed);
        if let Ok(file) = NameField::from_bytes(std::array::from_fn(|at| fixed[at])).file_name() {
            prop_assert!(!file.as_bytes().contains(&b'/') && file.as_bytes().len() <= 250);
        }
    }
}
