//! From a handshake to the keys of a session, and from one epoch of keys to the next.
//!
//! ```text
//! root  = HKDF-Extract(salt = SHA-256(messages 1–4), ikm = client secret ‖ server secret ‖ X25519 agreement)
//! chain = HKDF-Expand(root, "cyberbackup/3 <client|server> <data|control>")         four of them, 32 bytes each
//!   encryption key     = HKDF-Expand(chain, "cyberbackup/3 encryption")             AES-256
//!   authentication key = HKDF-Expand(chain, "cyberbackup/3 authentication")         HMAC-SHA256
//!   next chain         = HKDF-Expand(chain, "cyberbackup/3 next epoch")
//! ```
//! (HKDF and its two halves: RFC 5869 with SHA-256; `client` and `server` name the sender.)
//!
//! An attacker must know all three inputs to know the root: each RSA secret proves one side, the agreement gives
//! forward secrecy. The salt binds the keys to every byte that was exchanged. A chain reveals the epochs after it,
//! never those before: HKDF does not run backwards, and a chain that was left is wiped. Who holds an epoch's two
//! keys learns nothing of its chain.

use std::num::NonZeroU64;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey as X25519Public, StaticSecret};
use zeroize::Zeroizing;

use super::error::CryptoError;
use super::rsa_keys::Fingerprint;
use super::secret::{Secret, constant_time_equal};

/// How many segments of one chain share an epoch's keys unless a test says otherwise: 2^22, that is 64 GiB of full
/// segments.
pub const SEGMENTS_PER_EPOCH: NonZeroU64 = NonZeroU64::new(1 << 22).expect("2^22 is not zero");

/// One side's X25519 key of one handshake (RFC 7748). It can agree once and is wiped then.
pub struct Ephemeral {
    secret: StaticSecret,
    public: [u8; 32],
}

impl Ephemeral {
    /// A fresh key pair.
    pub fn random() -> Self {
        Self::from_secret(Secret::random())
    }

    fn from_secret(secret: Secret<32>) -> Self {
        let secret = StaticSecret::from(*secret.expose());
        let public = X25519Public::from(&secret).to_bytes();
        Self { secret, public }
    }

    /// The 32 bytes for the peer.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The common secret with the peer's public bytes.
    ///
    /// # Errors
    /// [`CryptoError::AgreementAllZero`] where the peer's point is of small order, so that its key added nothing
    /// (RFC 7748, section 6.1).
    pub fn agree(self, peer: &[u8; 32]) -> Result<Secret<32>, CryptoError> {
        let agreement = self.secret.diffie_hellman(&X25519Public::from(*peer));
        if !agreement.was_contributory() {
            return Err(CryptoError::AgreementAllZero);
        }
        Ok(Secret::from_bytes(*agreement.as_bytes()))
    }
}

/// The running SHA-256 over the exact bytes of the handshake, headers included.
#[derive(Clone, Default)]
pub struct Transcript(Sha256);

impl Transcript {
    /// A transcript of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next message, as it stood on the wire.
    pub fn add(&mut self, message: &[u8]) {
        self.0.update(message);
    }

    /// The hash of everything added so far.
    pub fn hash(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}

/// All keys of a session: two chains for each direction.
#[derive(Debug)]
pub struct SessionKeys {
    /// What the client seals and the server opens.
    pub client_to_server: DirectionChains,
    /// What the server seals and the client opens.
    pub server_to_client: DirectionChains,
}

/// The chains of one direction. Move them out into the sealer and the opener.
#[derive(Debug)]
pub struct DirectionChains {
    /// For data segments.
    pub data: Chain,
    /// For control segments.
    pub control: Chain,
}

impl SessionKeys {
    /// Derives the session's keys from both RSA-sealed secrets and the X25519 agreement, as the module's
    /// introduction says.
    ///
    /// `transcript_hash` covers messages 1 to 4; both sides must use the same `segments_per_epoch`
    /// ([`SEGMENTS_PER_EPOCH`]).
    pub fn derive(
        transcript_hash: &[u8; 32],
        client_secret: &Secret<32>,
        server_secret: &Secret<32>,
        agreement: &Secret<32>,
        segments_per_epoch: NonZeroU64,
    ) -> Self {
        let mut input = Zeroizing::new([0; 96]);
        let parts = [client_secret, server_secret, agreement];
        input.chunks_exact_mut(32).zip(parts).for_each(|(room, part)| room.copy_from_slice(part.expose()));
        let root = Hkdf::<Sha256>::new(Some(transcript_hash), &*input);
        let chain = |label| Chain { secret: expand(&root, label), epoch: 0, segments_per_epoch };
        Self {
            client_to_server: DirectionChains {
                data: chain("cyberbackup/3 client data"),
                control: chain("cyberbackup/3 client control"),
            },
            server_to_client: DirectionChains {
                data: chain("cyberbackup/3 server data"),
                control: chain("cyberbackup/3 server control"),
            },
        }
    }
}

/// The secret from which one kind of segment in one direction takes its keys, epoch by epoch.
#[derive(Debug)]
pub struct Chain {
    secret: Secret<32>,
    epoch: u64,
    segments_per_epoch: NonZeroU64,
}

/// The two keys of one epoch of one chain.
pub(super) struct EpochKeys {
    pub encryption: Secret<32>,
    pub authentication: Secret<32>,
}

impl Chain {
    /// The epoch that the chain stands at; 0 after the handshake.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch that a segment belongs to.
    pub fn epoch_of(&self, sequence: u64) -> u64 {
        sequence / self.segments_per_epoch
    }

    /// How many segments from `sequence` on, itself included, belong to its epoch.
    pub(super) fn left_in_epoch(&self, sequence: u64) -> u64 {
        self.segments_per_epoch.get() - sequence % self.segments_per_epoch
    }

    pub(super) fn keys(&self) -> EpochKeys {
        let chain = self.expander();
        EpochKeys {
            encryption: expand(&chain, "cyberbackup/3 encryption"),
            authentication: expand(&chain, "cyberbackup/3 authentication"),
        }
    }

    /// The chain one epoch on. The present one stays until it is replaced, and is wiped then.
    pub(super) fn next(&self) -> Self {
        Self {
            secret: expand(&self.expander(), "cyberbackup/3 next epoch"),
            epoch: self.epoch + 1,
            segments_per_epoch: self.segments_per_epoch,
        }
    }

    fn expander(&self) -> Hkdf<Sha256> {
        Hkdf::from_prk(self.secret.expose()).expect("a chain secret is as long as a SHA-256 hash")
    }

    #[cfg(test)]
    pub(super) fn from_secret(secret: [u8; 32], segments_per_epoch: u64) -> Self {
        let segments_per_epoch = NonZeroU64::new(segments_per_epoch).expect("an epoch has segments");
        Self { secret: Secret::from_bytes(secret), epoch: 0, segments_per_epoch }
    }

    #[cfg(test)]
    pub(super) fn secret(&self) -> &[u8; 32] {
        self.secret.expose()
    }
}

fn expand(key: &Hkdf<Sha256>, label: &str) -> Secret<32> {
    Secret::written_by(|bytes| key.expand(label.as_bytes(), bytes).expect("32 bytes are one block of HKDF-SHA256"))
}

/// What a client sends instead of its enrolment token: `HMAC-SHA256(token, "enrol" ‖ transcript ‖ name length
/// u16-le ‖ name ‖ public key)`.
///
/// `transcript_so_far` makes it worthless in any other handshake, name and key (SPKI DER) bind it to the one
/// registration it is for.
///
/// # Errors
/// [`CryptoError::NameTooLong`] for a name of more than 65,535 bytes.
pub fn enrol_proof(
    token: &Secret<16>,
    transcript_so_far: &[u8; 32],
    name: &[u8],
    public_key_der: &[u8],
) -> Result<[u8; 32], CryptoError> {
    let name_bytes = u16::try_from(name.len()).map_err(|_| CryptoError::NameTooLong { bytes: name.len() })?;
    let mut mac = Hmac::<Sha256>::new_from_slice(token.expose()).expect("HMAC takes a key of any length");
    for part in [b"enrol", &transcript_so_far[..], &name_bytes.to_le_bytes(), name, public_key_der] {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}

/// What a client answers to the challenge under its new key: `HMAC-SHA256(challenge, "rotation" ‖ fingerprint of the
/// server's key [32] ‖ client id [16] ‖ new public key)`.
///
/// Only the owner of the new key can open the challenge. Server and client bind the answer to the one session that
/// it is for, so that nobody can have it made elsewhere.
pub fn rotation_proof(
    challenge: &Secret<32>,
    server: &Fingerprint,
    client: &[u8; 16],
    new_public_key_der: &[u8],
) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(challenge.expose()).expect("HMAC takes a key of any length");
    for part in [b"rotation", &server.as_bytes()[..], client, new_public_key_der] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Whether `proof` is the [`enrol_proof`] of these inputs, compared in constant time. A name too long for any proof
/// has none.
pub fn verify_enrol_proof(
    proof: &[u8; 32],
    token: &Secret<16>,
    transcript_so_far: &[u8; 32],
    name: &[u8],
    public_key_der: &[u8],
) -> bool {
    enrol_proof(token, transcript_so_far, name, public_key_der)
        .is_ok_and(|expected| constant_time_equal(&expected, proof))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::test_support::{field, field_array, hex, read_vector, text, unhex, write_vector};
    use super::*;

    const VECTOR: &str = "key_schedule.json";

    fn few(segments: u64) -> NonZeroU64 {
        NonZeroU64::new(segments).expect("a test asks for at least one")
    }

    fn derive_from(transcript: u8, client: u8, server: u8, agreement: u8) -> SessionKeys {
        let secret = |byte| Secret::from_bytes([byte; 32]);
        SessionKeys::derive(&[transcript; 32], &secret(client), &secret(server), &secret(agreement), few(4))
    }

    fn chains(keys: &SessionKeys) -> [(&'static str, &Chain); 4] {
        [
            ("client data", &keys.client_to_server.data),
            ("client control", &keys.client_to_server.control),
            ("server data", &keys.server_to_client.data),
            ("server control", &keys.server_to_client.control),
        ]
    }

    #[test]
    fn both_sides_agree() {
        let (client, server) = (Ephemeral::random(), Ephemeral::random());
        let (client_public, server_public) = (client.public(), server.public());
        let at_client = client.agree(&server_public).expect("a fresh key contributes");
        let at_server = server.agree(&client_public).expect("a fresh key contributes");
        assert_eq!(at_client.expose(), at_server.expose());
    }

    #[test]
    fn agreement_is_that_of_rfc_7748() {
        // Section 6.1: Alice's private key, Bob's public key, and the secret they share.
        let alice =
            unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a").try_into().expect("32 bytes");
        let bob =
            unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f").try_into().expect("32 bytes");
        let agreement =
            Ephemeral::from_secret(Secret::from_bytes(alice)).agree(&bob).expect("a real key contributes");
        assert_eq!(hex(agreement.expose()), "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for peer in [[0; 32], one] {
            assert_eq!(Ephemeral::random().agree(&peer).err(), Some(CryptoError::AgreementAllZero));
        }
    }

    #[test]
    fn the_transcript_is_the_hash_of_all_bytes() {
        let mut transcript = Transcript::new();
        transcript.add(b"ab");
        let before = transcript.hash();
        transcript.add(b"c");
        assert_ne!(before, transcript.hash());
        assert_eq!(hex(&transcript.hash()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn every_input_changes_every_chain() {
        let base = derive_from(1, 2, 3, 4);
        for other in
            [derive_from(9, 2, 3, 4), derive_from(1, 9, 3, 4), derive_from(1, 2, 9, 4), derive_from(1, 2, 3, 9)]
        {
            for ((_, left), (_, right)) in chains(&base).iter().zip(chains(&other)) {
                assert_ne!(left.secret(), right.secret());
            }
        }
    }

    #[test]
    fn all_keys_of_a_session_differ() {
        let session = derive_from(1, 2, 3, 4);
        let mut keys = std::collections::HashSet::new();
        for (_, chain) in chains(&session) {
            for chain in [chain.next(), Chain::from_secret(*chain.secret(), 4)] {
                let epoch_keys = chain.keys();
                keys.extend([
                    *chain.secret(),
                    *epoch_keys.encryption.expose(),
                    *epoch_keys.authentication.expose(),
                ]);
            }
        }
        assert_eq!(keys.len(), 4 * 2 * 3);
    }

    #[test]
    fn a_chain_counts_its_epochs() {
        let chain = Chain::from_secret([0; 32], 4);
        assert_eq!([0, 3, 4, 8].map(|sequence| chain.epoch_of(sequence)), [0, 0, 1, 2]);
        assert_eq!([0, 3, 4].map(|sequence| chain.left_in_epoch(sequence)), [4, 1, 4]);
        assert_eq!(chain.next().next().epoch(), 2);
    }

    #[test]
    fn the_key_schedule_is_pinned() {
        assert_eq!(
            describe_schedule(),
            read_vector(VECTOR),
            "a change of the key schedule is a change of the protocol"
        );
    }

    #[test]
    #[ignore = "rewrites a vector; only for a change of the protocol"]
    fn rewrite_key_schedule_vector() {
        write_vector(VECTOR, &describe_schedule());
    }

    fn describe_schedule() -> Value {
        let (transcript, client, server, agreement) = ([0x11; 32], [0x22; 32], [0x33; 32], [0x44; 32]);
        let keys = SessionKeys::derive(
            &transcript,
            &Secret::from_bytes(client),
            &Secret::from_bytes(server),
            &Secret::from_bytes(agreement),
            few(4),
        );
        json!({
            "transcript_hash": hex(&transcript),
            "client_secret": hex(&client),
            "server_secret": hex(&server),
            "agreement": hex(&agreement),
            "chains": chains(&keys).map(|(name, chain)| json!({
                "name": name,
                "epochs": [describe_epoch(chain), describe_epoch(&chain.next()), describe_epoch(&chain.next().next())],
            })),
            "enrol": describe_enrol(),
        })
    }

    fn describe_epoch(chain: &Chain) -> Value {
        let keys = chain.keys();
        json!({
            "chain": hex(chain.secret()),
            "encryption_key": hex(keys.encryption.expose()),
            "authentication_key": hex(keys.authentication.expose()),
        })
    }

    fn describe_enrol() -> Value {
        let (token, transcript, name, key) = ([0x55; 16], [0x66; 32], "alice", [0x30, 0x03, 0x02, 0x01, 0x07]);
        let proof =
            enrol_proof(&Secret::from_bytes(token), &transcript, name.as_bytes(), &key).expect("the name is short");
        json!({
            "token": hex(&token), "transcript_hash": hex(&transcript), "name": name, "public_key": hex(&key), "proof": hex(&proof),
        })
    }

    #[test]
    fn an_enrol_proof_is_bound_to_all_its_inputs() {
        let enrol = &read_vector(VECTOR)["enrol"];
        let token = Secret::from_bytes(field_array(enrol, "token"));
        let other_token = Secret::from_bytes([0; 16]);
        let transcript = field_array(enrol, "transcript_hash");
        let (name, key) = (text(enrol, "name").as_bytes(), field(enrol, "public_key"));
        let mut proof = field_array(enrol, "proof");
        assert!(verify_enrol_proof(&proof, &token, &transcript, name, &key));
        assert!(!verify_enrol_proof(&proof, &other_token, &transcript, name, &key));
        assert!(!verify_enrol_proof(&proof, &token, &[0; 32], name, &key));
        assert!(!verify_enrol_proof(&proof, &token, &transcript, b"bob", &key));
        assert!(!verify_enrol_proof(&proof, &token, &transcript, name, &key[1..]));
        proof[31] ^= 1;
        assert!(!verify_enrol_proof(&proof, &token, &transcript, name, &key));
    }

    #[test]
    fn a_name_too_long_has_no_proof() {
        let (token, name) = (Secret::from_bytes([0; 16]), vec![b'a'; 65_536]);
        let refused = enrol_proof(&token, &[0; 32], &name, b"");
        assert_eq!(refused, Err(CryptoError::NameTooLong { bytes: 65_536 }));
        assert!(!verify_enrol_proof(&[0; 32], &token, &[0; 32], &name, b""));
    }
}
