//! A client exchanges its key for a new one, in a session that the old one was proved in.
//!
//! Nothing is written before the client has opened a challenge under the new key; from then on both are good, until
//! the first login with the new one. Only the key that the client has at that moment lets it name another: a session
//! of an earlier key is of no use any more.

use super::session::Failure;
use crate::base::ids::ClientId;
use crate::crypto::{CryptoError, Fingerprint, OaepLabel, PublicKey, Secret, constant_time_equal, rotation_proof};
use crate::protocol::message::FailureCode;
use crate::storage::{ClientRecord, Store};

/// A new key whose owner has not proved it yet.
pub struct OfferedKey {
    key: PublicKey,
    challenge: Secret<32>,
}

impl OfferedKey {
    /// Takes the key that a client offers, and gives the challenge sealed under it.
    pub fn challenge(public_key: &[u8]) -> Result<(OfferedKey, Vec<u8>), Failure> {
        let sealed = || -> Result<(OfferedKey, Vec<u8>), CryptoError> {
            let (key, challenge) = (PublicKey::from_spki_der(public_key)?, Secret::random());
            let sealed = key.seal_secret(OaepLabel::Rotation, &challenge)?;
            Ok((OfferedKey { key, challenge }, sealed))
        };
        sealed().map_err(|error| refused(format!("the new key cannot be used: {error}")))
    }

    /// Writes the key down as the one that follows the client's, if `proof` is right; durable when this returns.
    /// `server` is the key of the server in this session.
    pub fn take(
        self,
        store: &Store,
        server: Fingerprint,
        client: &ClientRecord,
        proof: &[u8; 32],
    ) -> Result<(), Failure> {
        let id: ClientId = client.id;
        let expected = rotation_proof(&self.challenge, &server, id.as_bytes(), self.key.spki_der());
        if !constant_time_equal(&expected, proof) {
            return Err(refused("the new key was not proved: run \"cyberbackup rotate-key\" again".into()));
        }
        store.begin_key_rotation(id, &client.public_key, self.key.spki_der())?;
        log::info!("{}: a new key {} is to follow the present one", client.name, self.key.fingerprint());
        Ok(())
    }
}

fn refused(text: String) -> Failure {
    Failure { code: FailureCode::Refused, text }
}
