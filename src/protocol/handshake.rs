//! The four messages of the handshake and the two answers that may take the place of an answer in it.
//!
//! Lengths: every payload is bounded by [`CLIENT_HELLO_BYTES_MAX`] and its siblings, which are checked
//! against the header before anything is read.

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::ids::{ClientId, UserName};

pub const CLIENT_HELLO_BYTES_MAX: usize = 256;
pub const SERVER_HELLO_BYTES_MAX: usize = 1_024;
pub const LOGIN_BYTES_MAX: usize = 2_048;
pub const LOGIN_ANSWER_BYTES_MAX: usize = 1_024;
/// Both [`Busy`] and [`Refusal`] travel in two bytes.
pub const SHORT_ANSWER_BYTES: usize = 2;

/// Most features that a list may name.
const FEATURES_MAX: usize = 64;
/// A SubjectPublicKeyInfo of 4,096 bits takes 550 bytes.
pub(super) const PUBLIC_KEY_BYTES_MAX: usize = 600;
/// An RSA ciphertext is as long as its modulus: at most 4,096 bits.
pub(super) const RSA_CIPHERTEXT_BYTES_MAX: usize = 512;
/// 100 characters of UTF-8.
const NAME_BYTES_MAX: usize = 400;

/// The smallest and largest resend ring a peer may announce, in bytes.
pub const WINDOW_BYTES_RANGE: std::ops::RangeInclusive<u32> = 64 * 1024..=16 * 1024 * 1024;
/// After how many data segments the keys of a direction may advance.
pub const SEGMENTS_PER_EPOCH_RANGE: std::ops::RangeInclusive<u64> = 64..=1 << 22;

/// Optional abilities; both sides speak those that the client offered and the server chose.
pub mod feature {
    /// The conversation as `docs/protocol.md` describes it. Always offered, always chosen.
    pub const BASE: u16 = 1;
    /// Keys can be exchanged for new ones.
    pub const KEY_ROTATION: u16 = 2;
    /// Vaults: what only their clients can read.
    pub const VAULTS: u16 = 3;
    /// All that this program knows.
    pub const ALL: [u16; 3] = [BASE, KEY_ROTATION, VAULTS];
}

/// Message 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    pub features: Vec<u16>,
    pub random: [u8; 32],
    pub ephemeral: [u8; 32],
    /// The client's resend ring in bytes.
    pub window: u32,
}

impl ClientHello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_features(&mut out, &self.features);
        out.put_bytes(&self.random);
        out.put_bytes(&self.ephemeral);
        out.put_u32(self.window);
        out
    }

    pub fn decode(payload: &[u8]) -> Result<ClientHello, DecodeError> {
        let mut reader = Reader::new(payload);
        let hello = ClientHello {
            features: read_features(&mut reader)?,
            random: reader.array("client random")?,
            ephemeral: reader.array("client ephemeral key")?,
            window: read_window(&mut reader)?,
        };
        reader.finish("client hello")?;
        Ok(hello)
    }
}

/// Who may register at a server without having been there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationPolicy {
    /// A peer on the server's own host may; others need a token.
    Local = 1,
    Open = 2,
    Token = 3,
    Closed = 4,
}

impl RegistrationPolicy {
    pub const WORDS: [(&'static str, RegistrationPolicy); 4] = [
        ("local", RegistrationPolicy::Local),
        ("open", RegistrationPolicy::Open),
        ("token", RegistrationPolicy::Token),
        ("closed", RegistrationPolicy::Closed),
    ];

    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, policy)| *policy == self).expect("every policy has a word").0
    }

    fn from_byte(byte: u8) -> Result<RegistrationPolicy, DecodeError> {
        let found = Self::WORDS.iter().find(|(_, policy)| *policy as u8 == byte);
        found.map(|(_, policy)| *policy).ok_or(DecodeError::Invalid { what: "registration policy" })
    }
}

/// Message 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    pub features: Vec<u16>,
    /// The server's RSA key as SubjectPublicKeyInfo DER.
    pub public_key: Vec<u8>,
    pub random: [u8; 32],
    pub ephemeral: [u8; 32],
    /// The server's resend ring in bytes.
    pub window: u32,
    pub segments_per_epoch: u64,
    /// How long the server waits for a whole message, in seconds.
    pub timeout_seconds: u16,
    pub policy: RegistrationPolicy,
}

impl ServerHello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_features(&mut out, &self.features);
        out.put_bytes16(&self.public_key);
        out.put_bytes(&self.random);
        out.put_bytes(&self.ephemeral);
        out.put_u32(self.window);
        out.put_u64(self.segments_per_epoch);
        out.put_u16(self.timeout_seconds);
        out.put_u8(self.policy as u8);
        out
    }

    pub fn decode(payload: &[u8]) -> Result<ServerHello, DecodeError> {
        let mut reader = Reader::new(payload);
        let hello = ServerHello {
            features: read_features(&mut reader)?,
            public_key: reader.bytes16(PUBLIC_KEY_BYTES_MAX, "server public key")?.to_vec(),
            random: reader.array("server random")?,
            ephemeral: reader.array("server ephemeral key")?,
            window: read_window(&mut reader)?,
            segments_per_epoch: reader.u64("segments in an epoch")?,
            timeout_seconds: reader.u16("timeout")?,
            policy: RegistrationPolicy::from_byte(reader.u8("registration policy")?)?,
        };
        reader.finish("server hello")?;
        if !SEGMENTS_PER_EPOCH_RANGE.contains(&hello.segments_per_epoch) {
            return Err(DecodeError::Invalid { what: "segments in an epoch" });
        }
        Ok(hello)
    }
}

/// How a client says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It has been here before and was given this id.
    Known(ClientId),
    /// The same, and which of its keys it has: the SHA-256 of that public key. For a client that the server would
    /// have used another key of.
    KnownByKey(ClientId, [u8; 32]),
    /// It is new, or lost the answer that held its id: its public key as SubjectPublicKeyInfo DER.
    Register(Vec<u8>),
}

/// Message 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub name: UserName,
    pub claim: Claim,
    /// HMAC under an enrolment token; the token itself never travels.
    pub token_proof: Option<[u8; 32]>,
    /// The client's secret under RSA-OAEP for the server's key.
    pub sealed_secret: Vec<u8>,
}

const CLAIM_KNOWN: u8 = 1;
const CLAIM_REGISTER: u8 = 2;
const CLAIM_KNOWN_BY_KEY: u8 = 3;

impl Login {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_bytes16(self.name.as_str().as_bytes());
        match &self.claim {
            Claim::Known(id) => {
                out.put_u8(CLAIM_KNOWN);
                out.put_bytes(id.as_bytes());
            }
            Claim::KnownByKey(id, fingerprint) => {
                out.put_u8(CLAIM_KNOWN_BY_KEY);
                out.put_bytes(id.as_bytes());
                out.put_bytes(fingerprint);
            }
            Claim::Register(public_key) => {
                out.put_u8(CLAIM_REGISTER);
                out.put_bytes16(public_key);
            }
        }
        out.put_flag(self.token_proof.is_some());
        if let Some(proof) = &self.token_proof {
            out.put_bytes(proof);
        }
        out.put_bytes16(&self.sealed_secret);
        out
    }

    pub fn decode(payload: &[u8]) -> Result<Login, DecodeError> {
        let mut reader = Reader::new(payload);
        let name = reader.text16(NAME_BYTES_MAX, "user name")?;
        let login = Login {
            name: name.parse().map_err(|_| DecodeError::Invalid { what: "user name" })?,
            claim: match reader.u8("claim")? {
                CLAIM_KNOWN => Claim::Known(ClientId::from_bytes(reader.array("client id")?)),
                CLAIM_KNOWN_BY_KEY => {
                    let id = ClientId::from_bytes(reader.array("client id")?);
                    Claim::KnownByKey(id, reader.array("client key fingerprint")?)
                }
                CLAIM_REGISTER => {
                    Claim::Register(reader.bytes16(PUBLIC_KEY_BYTES_MAX, "client public key")?.to_vec())
                }
                _ => return Err(DecodeError::Invalid { what: "claim" }),
            },
            token_proof: match reader.flag("token proof")? {
                true => Some(reader.array("token proof")?),
                false => None,
            },
            sealed_secret: reader.bytes16(RSA_CIPHERTEXT_BYTES_MAX, "client secret")?.to_vec(),
        };
        reader.finish("login")?;
        Ok(login)
    }
}

/// Message 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginAnswer {
    pub client: ClientId,
    /// SHA-256 of the client key that was used, so that the client knows which of its keys opens the secret.
    pub client_fingerprint: [u8; 32],
    /// The server's secret under RSA-OAEP for that key.
    pub sealed_secret: Vec<u8>,
}

impl LoginAnswer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_bytes(self.client.as_bytes());
        out.put_bytes(&self.client_fingerprint);
        out.put_bytes16(&self.sealed_secret);
        out
    }

    pub fn decode(payload: &[u8]) -> Result<LoginAnswer, DecodeError> {
        let mut reader = Reader::new(payload);
        let answer = LoginAnswer {
            client: ClientId::from_bytes(reader.array("client id")?),
            client_fingerprint: reader.array("client key fingerprint")?,
            sealed_secret: reader.bytes16(RSA_CIPHERTEXT_BYTES_MAX, "server secret")?.to_vec(),
        };
        reader.finish("login answer")?;
        Ok(answer)
    }
}

/// "Come again in so many seconds."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    pub seconds: u16,
}

impl Busy {
    pub fn encode(&self) -> Vec<u8> {
        self.seconds.to_le_bytes().to_vec()
    }

    pub fn decode(payload: &[u8]) -> Result<Busy, DecodeError> {
        let mut reader = Reader::new(payload);
        let busy = Busy { seconds: reader.u16("busy seconds")? };
        reader.finish("busy")?;
        Ok(busy)
    }
}

/// Why a server does not go on with a handshake. Before the channel is sealed this is a hint, not a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The id and name do not belong together here, or the key is not theirs.
    Authentication = 1,
    /// The name belongs to another key.
    NameTaken = 2,
    /// This server registers nobody, or this peer only with a token.
    Registration = 3,
    /// The token is unknown, used, expired, or of another name.
    Token = 4,
    /// The message makes no sense here.
    Malformed = 5,
    /// The server is ending.
    Ending = 6,
}

impl Refusal {
    pub const ALL: [Refusal; 6] = [
        Refusal::Authentication,
        Refusal::NameTaken,
        Refusal::Registration,
        Refusal::Token,
        Refusal::Malformed,
        Refusal::Ending,
    ];

    pub fn encode(self) -> Vec<u8> {
        (self as u16).to_le_bytes().to_vec()
    }

    pub fn decode(payload: &[u8]) -> Result<Refusal, DecodeError> {
        let mut reader = Reader::new(payload);
        let number = reader.u16("refusal")?;
        reader.finish("refusal")?;
        Refusal::from_number(number)
    }

    pub fn from_number(number: u16) -> Result<Refusal, DecodeError> {
        let found = Refusal::ALL.into_iter().find(|refusal| *refusal as u16 == number);
        found.ok_or(DecodeError::Invalid { what: "refusal" })
    }
}

fn put_features(out: &mut Vec<u8>, features: &[u16]) {
    out.put_u8(u8::try_from(features.len()).expect("at most 64 features"));
    for feature in features {
        out.put_u16(*feature);
    }
}

fn read_features(reader: &mut Reader<'_>) -> Result<Vec<u16>, DecodeError> {
    let count = reader.u8("feature count")? as usize;
    if count > FEATURES_MAX {
        let (found, limit) = (count as u64, FEATURES_MAX as u64);
        return Err(DecodeError::TooLarge { what: "feature count", found, limit });
    }
    (0..count).map(|_| reader.u16("feature")).collect()
}

fn read_window(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let window = reader.u32("window")?;
    if WINDOW_BYTES_RANGE.contains(&window) { Ok(window) } else { Err(DecodeError::Invalid { what: "window" }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_hello() -> ClientHello {
        ClientHello { features: vec![1, 9], random: [1; 32], ephemeral: [2; 32], window: 2 << 20 }
    }

    fn server_hello() -> ServerHello {
        ServerHello {
            features: vec![1],
            public_key: vec![5; 294],
            random: [3; 32],
            ephemeral: [4; 32],
            window: 512 << 10,
            segments_per_epoch: 1 << 22,
            timeout_seconds: 60,
            policy: RegistrationPolicy::Local,
        }
    }

    fn logins() -> [Login; 3] {
        let name: UserName = "Ada".parse().unwrap();
        [
            Login {
                name: name.clone(),
                claim: Claim::Known(ClientId::from_bytes([6; 16])),
                token_proof: None,
                sealed_secret: vec![7; 128],
            },
            Login {
                name: name.clone(),
                claim: Claim::KnownByKey(ClientId::from_bytes([6; 16]), [5; 32]),
                token_proof: None,
                sealed_secret: vec![7; 128],
            },
            Login {
                name,
                claim: Claim::Register(vec![8; 162]),
                token_proof: Some([9; 32]),
                sealed_secret: vec![7; 512],
            },
        ]
    }

    #[test]
    fn every_handshake_message_comes_back_as_it_was() {
        assert_eq!(ClientHello::decode(&client_hello().encode()), Ok(client_hello()));
        assert_eq!(ServerHello::decode(&server_hello().encode()), Ok(server_hello()));
        for login in logins() {
            assert_eq!(Login::decode(&login.encode()), Ok(login.clone()));
            assert!(login.encode().len() <= LOGIN_BYTES_MAX);
        }
        let answer = LoginAnswer {
            client: ClientId::from_bytes([1; 16]),
            client_fingerprint: [2; 32],
            sealed_secret: vec![3; 384],
        };
        assert_eq!(LoginAnswer::decode(&answer.encode()), Ok(answer));
        assert_eq!(Busy::decode(&Busy { seconds: 30 }.encode()), Ok(Busy { seconds: 30 }));
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::decode(&refusal.encode()), Ok(refusal));
        }
    }

    /// The bytes of every handshake message, as `tests/testdata/vectors/handshake.txt` pins them.
    #[test]
    fn the_bytes_of_every_handshake_message_are_pinned() {
        let [known, known_by_key, register] = logins();
        let answer = LoginAnswer {
            client: ClientId::from_bytes([1; 16]),
            client_fingerprint: [2; 32],
            sealed_secret: vec![3; 384],
        };
        let mut lines = vec![
            ("client-hello", client_hello().encode()),
            ("server-hello", server_hello().encode()),
            ("login-known", known.encode()),
            ("login-known-by-key", known_by_key.encode()),
            ("login-register", register.encode()),
            ("login-answer", answer.encode()),
            ("busy", Busy { seconds: 30 }.encode()),
        ];
        lines.extend(Refusal::ALL.map(|refusal| ("refusal", refusal.encode())));
        let found: String =
            lines.iter().map(|(name, bytes)| format!("{name} {}\n", crate::base::ids::hex(bytes))).collect();
        let pinned = include_str!("../../tests/testdata/vectors/handshake.txt");
        assert!(found == pinned, "the bytes of a handshake message changed; they are now:\n{found}");
    }

    #[test]
    fn one_byte_more_or_less_is_refused() {
        type Decodes = fn(&[u8]) -> bool;
        let messages: [(Vec<u8>, Decodes); 3] = [
            (client_hello().encode(), |bytes| ClientHello::decode(bytes).is_ok()),
            (server_hello().encode(), |bytes| ServerHello::decode(bytes).is_ok()),
            (logins()[2].encode(), |bytes| Login::decode(bytes).is_ok()),
        ];
        for (bytes, decodes) in messages {
            assert!(decodes(&bytes));
            assert!(!decodes(&bytes[..bytes.len() - 1]));
            assert!(!decodes(&[&bytes[..], &[0]].concat()));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = ClientHello::decode(&bytes);
            let _ = ServerHello::decode(&bytes);
            let _ = Login::decode(&bytes);
            let _ = LoginAnswer::decode(&bytes);
            let _ = Busy::decode(&bytes);
            let _ = Refusal::decode(&bytes);
        }
    }
}
