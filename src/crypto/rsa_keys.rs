//! RSA keys, and the secrets that travel under them.
//!
//! Keys have 1,024 to 4,096 bits and the exponent 3, 17 or 65537. Secrets of 32 bytes travel under RSA-OAEP with
//! SHA-256 (RFC 8017, section 7.1), which fits the smallest of these keys (62 bytes at most), with a label that
//! names role and direction.
//!
//! A public key has exactly one encoding here. What is pinned, signed into transcripts and shown to people is the
//! hash of that encoding, so two encodings of one key would be two identities.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::{PaddingScheme, PublicKeyParts};
use rsa::{BoxedUint, Oaep};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::error::CryptoError;
use super::secret::Secret;

/// The least modulus that is accepted.
pub const KEY_BITS_MIN: usize = 1024;
/// The greatest modulus that is accepted.
pub const KEY_BITS_MAX: usize = 4096;
/// The public exponents that are accepted; new keys have the last one.
pub const KEY_EXPONENTS: [u64; 3] = [3, 17, 65537];
/// The longest accepted SubjectPublicKeyInfo: 4,096 bits take 550 bytes.
pub const SPKI_DER_MAX: usize = 550;

const SECRET_BYTES: usize = 32;

/// What a secret under RSA-OAEP is for. A ciphertext made for one purpose does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OaepLabel {
    /// The client's secret, under the server's key (handshake message 3).
    ClientToServer,
    /// The server's secret, under the client's key (handshake message 4).
    ServerToClient,
    /// The challenge by which a client proves a new key in a rotation.
    Rotation,
    /// The key of a vault's upload, under the vault's key.
    VaultDataKey,
}

impl OaepLabel {
    /// The label's bytes, as OAEP hashes them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientToServer => "cyberbackup/3 client secret to server",
            Self::ServerToClient => "cyberbackup/3 server secret to client",
            Self::Rotation => "cyberbackup/3 rotation challenge to client",
            Self::VaultDataKey => "cyberbackup vault 1 data key",
        }
    }

    fn padding(self) -> Oaep<Sha256> {
        Oaep::new_with_label(self.as_str().as_bytes())
    }
}

/// An RSA key pair. Wiped when dropped; prints only the fingerprint of its public half.
pub struct PrivateKey {
    pub(super) key: rsa::PrivateKey,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a new pair with exponent 65537.
    ///
    /// # Errors
    /// [`CryptoError::KeyBits`] unless `bits` is a multiple of 8 from 1,024 to 4,096.
    pub fn generate(bits: usize) -> Result<Self, CryptoError> {
        if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) || !bits.is_multiple_of(8) {
            return Err(CryptoError::KeyBits { bits });
        }
        let key = rsa::PrivateKey::new(&mut SystemRandom, bits).map_err(|_| CryptoError::KeyGeneration)?;
        Self::new(key)
    }

    /// Reads a pair from PKCS#8 DER (RFC 5958) and checks that its parts belong together.
    ///
    /// # Errors
    /// [`CryptoError::PrivateKeyMalformed`], or [`CryptoError::KeyBits`] and [`CryptoError::KeyExponent`] for keys
    /// outside the limits.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, CryptoError> {
        let key = rsa::PrivateKey::from_pkcs8_der(der).map_err(|_| CryptoError::PrivateKeyMalformed)?;
        Self::new(key)
    }

    pub(super) fn new(key: rsa::PrivateKey) -> Result<Self, CryptoError> {
        let public = PublicKey::new(key.to_public_key())?;
        Ok(Self { key, public })
    }

    /// The pair as PKCS#8 DER, in a buffer that wipes itself.
    ///
    /// # Errors
    /// [`CryptoError::PrivateKeyMalformed`] if the key cannot be encoded, which a key made by this type can.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let document = self.key.to_pkcs8_der().map_err(|_| CryptoError::PrivateKeyMalformed)?;
        Ok(document.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Opens a secret that was sealed for this key. It always gives one: where the ciphertext is not a secret
    /// sealed for this key and label, a random one that nobody knows.
    ///
    /// Whoever could tell these cases apart, by an answer or by the time it takes, could decrypt with this key by
    /// trying (Manger, CRYPTO 2001). So both run the same course: the substitute is drawn beforehand, always; the
    /// RSA operation is blinded, so its time says nothing about the ciphertext; the OAEP check inside the `rsa`
    /// crate decides in constant time over the whole block and does not look at the block's first byte, Manger's
    /// oracle, at all; and the choice between secret and substitute is made without a branch. What still differs is
    /// the copy of 32 bytes out of a good block, some nanoseconds beside milliseconds of blinded exponentiation.
    /// The handshake then goes on alike and fails at the HMAC of the first segment.
    ///
    /// A ciphertext of the wrong length or beyond the modulus is known as such to its sender without asking; it
    /// takes the substitute too.
    pub fn open_secret(&self, label: OaepLabel, ciphertext: &[u8]) -> Secret<32> {
        let substitute = Secret::<SECRET_BYTES>::random();
        let opened = self.key.decrypt_blinded(&mut SystemRandom, label.padding(), ciphertext).unwrap_or_default();
        let opened = Zeroizing::new(opened);
        let is_secret = opened.len().ct_eq(&SECRET_BYTES);
        Secret::written_by(|secret| {
            let found = opened.iter().copied().chain(std::iter::repeat(0));
            for ((byte, substitute), found) in secret.iter_mut().zip(substitute.expose()).zip(found) {
                *byte = u8::conditional_select(substitute, &found, is_secret);
            }
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrivateKey({})", self.public.fingerprint)
    }
}

/// An RSA public key within the limits, with its one encoding and its fingerprint.
#[derive(Clone)]
pub struct PublicKey {
    key: rsa::PublicKey,
    spki_der: Vec<u8>,
    fingerprint: Fingerprint,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, section 4.1, with the algorithm `rsaEncryption` of RFC 8017).
    ///
    /// # Errors
    /// [`CryptoError::PublicKeyMalformed`] for anything but the exact DER encoding (no trailing bytes, no other
    /// algorithm) and for a modulus that is too small or too large to be decoded, [`CryptoError::KeyBits`] for one
    /// a few bits outside the limits, [`CryptoError::KeyExponent`] for another exponent.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, CryptoError> {
        if der.len() > SPKI_DER_MAX {
            return Err(CryptoError::PublicKeyMalformed);
        }
        let key = rsa::PublicKey::from_public_key_der(der).map_err(|_| CryptoError::PublicKeyMalformed)?;
        let public = Self::new(key)?;
        if public.spki_der != der {
            return Err(CryptoError::PublicKeyMalformed);
        }
        Ok(public)
    }

    fn new(key: rsa::PublicKey) -> Result<Self, CryptoError> {
        let bits = modulus_bits(&key);
        if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) {
            return Err(CryptoError::KeyBits { bits });
        }
        if !KEY_EXPONENTS.iter().any(|&exponent| has_exponent(&key, exponent)) {
            return Err(CryptoError::KeyExponent);
        }
        let spki_der = key.to_public_key_der().map_err(|_| CryptoError::PublicKeyMalformed)?.into_vec();
        let fingerprint = Fingerprint::of_der(&spki_der);
        Ok(Self { key, spki_der, fingerprint })
    }

    /// The key's one encoding, SubjectPublicKeyInfo DER, at most [`SPKI_DER_MAX`] bytes.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The SHA-256 of [`PublicKey::spki_der`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The size of the modulus in bits.
    pub fn bits(&self) -> usize {
        modulus_bits(&self.key)
    }

    pub(super) fn exponent_is(&self, exponent: u64) -> bool {
        has_exponent(&self.key, exponent)
    }

    /// The size of the modulus in bytes, which is that of every ciphertext under this key.
    pub fn modulus_bytes(&self) -> usize {
        self.key.size()
    }

    /// Seals a secret for the owner of this key. The result is [`PublicKey::modulus_bytes`] long.
    ///
    /// # Errors
    /// [`CryptoError::SealSecret`] if the key cannot encrypt, which no key within the limits causes.
    pub fn seal_secret(&self, label: OaepLabel, secret: &Secret<32>) -> Result<Vec<u8>, CryptoError> {
        self.encrypt(label.padding(), secret.expose())
    }

    pub(super) fn encrypt(&self, padding: impl PaddingScheme, secret: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.key.encrypt(&mut SystemRandom, padding, secret).map_err(|_| CryptoError::SealSecret)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki_der == other.spki_der
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", self.fingerprint)
    }
}

fn modulus_bits(key: &rsa::PublicKey) -> usize {
    key.n().bit_width_vartime() as usize
}

fn has_exponent(key: &rsa::PublicKey, exponent: u64) -> bool {
    *key.e() == BoxedUint::from(exponent)
}

/// The SHA-256 of a public key's SubjectPublicKeyInfo, written as ssh writes it: `SHA256:` and 43 base64 characters
/// without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint([u8; 32]);

const FINGERPRINT_PREFIX: &str = "SHA256:";

impl Fingerprint {
    /// Takes the 32 bytes of the hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Of a SubjectPublicKeyInfo in its one encoding.
    pub fn of_der(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{FINGERPRINT_PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Fingerprint {
    type Err = CryptoError;

    fn from_str(text: &str) -> Result<Self, CryptoError> {
        text.strip_prefix(FINGERPRINT_PREFIX)
            .and_then(|encoded| STANDARD_NO_PAD.decode(encoded).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(CryptoError::FingerprintMalformed)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = CryptoError;

    fn try_from(text: String) -> Result<Self, CryptoError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// The operating system's randomness, as the `rsa` crate asks for it.
pub(super) struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = getrandom::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        getrandom::u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        getrandom::u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(bytes)
    }
}

impl TryCryptoRng for SystemRandom {}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::test_support::{field, read_vector, text};
    use super::*;

    const VECTOR: &str = "oaep.json";
    const LABELS: [OaepLabel; 4] =
        [OaepLabel::ClientToServer, OaepLabel::ServerToClient, OaepLabel::Rotation, OaepLabel::VaultDataKey];

    fn good_vectors() -> Vec<Value> {
        read_vector(VECTOR)["good"].as_array().expect("a list of vectors").clone()
    }

    fn private_key(vector: &Value) -> PrivateKey {
        PrivateKey::from_pkcs8_der(&field(vector, "private_key")).expect("the vector's key is good")
    }

    fn label(vector: &Value) -> OaepLabel {
        let name = text(vector, "label");
        *LABELS.iter().find(|label| label.as_str() == name).expect("the vector's label is known")
    }

    #[test]
    fn vectors_open_under_every_size_and_exponent() {
        for vector in good_vectors() {
            let opened = private_key(&vector).open_secret(label(&vector), &field(&vector, "ciphertext"));
            assert_eq!(opened.expose()[..], field(&vector, "secret"), "{}", text(&vector, "name"));
        }
    }

    #[test]
    fn keys_keep_their_encoding_and_fingerprint() {
        for vector in good_vectors() {
            let private = private_key(&vector);
            let public = PublicKey::from_spki_der(&field(&vector, "public_key")).expect("the vector's key is good");
            assert_eq!(*private.public(), public);
            assert_eq!(public.fingerprint().to_string(), text(&vector, "fingerprint"));
            assert_eq!(public.spki_der(), field(&vector, "public_key"));
            assert_eq!(private.to_pkcs8_der().expect("a good key")[..], field(&vector, "private_key"));
            assert_eq!(public.modulus_bytes(), public.bits().div_ceil(8));
        }
    }

    #[test]
    fn sealed_secrets_open_under_their_own_label_only() {
        for vector in good_vectors() {
            let (private, secret) = (private_key(&vector), Secret::random());
            let ciphertext = private.public().seal_secret(OaepLabel::Rotation, &secret).expect("the key is good");
            assert_eq!(ciphertext.len(), private.public().modulus_bytes());
            for label in LABELS {
                let opened = private.open_secret(label, &ciphertext);
                assert_eq!(opened.expose() == secret.expose(), label == OaepLabel::Rotation);
            }
        }
    }

    #[test]
    fn what_does_not_open_gives_a_new_random_secret_each_time() {
        let vector = &good_vectors()[0];
        let (private, secret) = (private_key(vector), field(vector, "secret"));
        for bad in read_vector(VECTOR)["bad_ciphertexts_for_the_first_key"].as_array().expect("a list of vectors") {
            let ciphertext = field(bad, "ciphertext");
            let (once, again) =
                (private.open_secret(label(vector), &ciphertext), private.open_secret(label(vector), &ciphertext));
            let name = text(bad, "name");
            assert_ne!(once.expose(), again.expose(), "{name}");
            assert_ne!(once.expose()[..16], secret[..16], "{name}");
            assert_ne!(once.expose()[..16], [0; 16], "{name}");
        }
    }

    #[test]
    fn public_keys_outside_the_limits_are_refused() {
        for bad in read_vector(VECTOR)["bad_public_keys"].as_array().expect("a list of vectors") {
            let refused = PublicKey::from_spki_der(&field(bad, "public_key")).expect_err(text(bad, "name"));
            let variant = format!("{refused:?}");
            assert!(variant.starts_with(text(bad, "error")), "{}: {variant}", text(bad, "name"));
        }
    }

    #[test]
    fn every_cut_of_a_key_is_refused() {
        let vector = &good_vectors()[0];
        let (public, private) = (field(vector, "public_key"), field(vector, "private_key"));
        (0..public.len()).for_each(|end| assert!(PublicKey::from_spki_der(&public[..end]).is_err()));
        (0..private.len()).for_each(|end| assert!(PrivateKey::from_pkcs8_der(&private[..end]).is_err()));
    }

    #[test]
    fn new_keys_have_the_size_asked_for() {
        let private = PrivateKey::generate(1024).expect("1,024 bits are accepted");
        assert_eq!((private.public().bits(), private.public().modulus_bytes()), (1024, 128));
        let read =
            PrivateKey::from_pkcs8_der(&private.to_pkcs8_der().expect("a good key")).expect("what was written");
        assert_eq!(read.public(), private.public());
    }

    #[test]
    fn sizes_outside_the_limits_are_refused() {
        for bits in [0, 512, 1016, 1025, 4104] {
            assert_eq!(PrivateKey::generate(bits).err(), Some(CryptoError::KeyBits { bits }));
        }
    }

    #[test]
    fn fingerprints_read_back_as_they_print() {
        let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let json = serde_json::to_string(&fingerprint).expect("a text");
        assert_eq!(json, format!("\"{fingerprint}\""));
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).expect("the same text"), fingerprint);
    }

    #[test]
    fn other_spellings_of_a_fingerprint_are_refused() {
        let good = Fingerprint::from_bytes([0; 32]).to_string();
        for bad in [
            String::new(),
            good.replace("SHA256:", "sha256:"),
            good.replace("SHA256:", ""),
            format!("{good}="),
            format!("{good}A"),
            good[..good.len() - 1].to_owned(),
            // The last character has two bits beyond the hash; they must be zero.
            format!("{}B", &good[..good.len() - 1]),
        ] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(CryptoError::FingerprintMalformed), "{bad:?}");
        }
    }

    #[test]
    fn debug_prints_fingerprints_only() {
        let private = private_key(&good_vectors()[0]);
        let fingerprint = text(&good_vectors()[0], "fingerprint").to_owned();
        assert_eq!(format!("{private:?}"), format!("PrivateKey({fingerprint})"));
        assert_eq!(format!("{:?}", private.public()), format!("PublicKey({fingerprint})"));
    }
}
