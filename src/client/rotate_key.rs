//! `rotate-key`: the client's key is exchanged for a new one.
//!
//! 1. The new private key is written as the next one, and flushed.
//! 2. In a session of the present key the server is given the public key, and answers with a challenge under it.
//! 3. The client opens that. Now the server takes both keys, and answers so once that is on its disk.
//! 4. The next login is with the new key: the server forgets the old one, and the client renames its file.
//!
//! Cut off before 3 is done, everything is as before, but for a file that the next rotation replaces. Cut off after
//! it, the next login of any command is that of 4. In between either may be, and the server's fingerprint tells.

use super::connect::{Client, Session};
use super::error::ClientError;
use super::keys;
use crate::channel::ChannelError;
use crate::crypto::{Fingerprint, OaepLabel, PrivateKey, rotation_proof};
use crate::protocol::message::{ToClient, ToServer};

/// What became of a rotation.
#[derive(Debug)]
pub struct KeyRotation {
    pub old: Fingerprint,
    pub new: Fingerprint,
    pub bits: usize,
}

/// Exchanges the client's key for a new one of `--rsa-bits`.
pub fn rotate_key(client: &mut Client<'_>) -> Result<KeyRotation, ClientError> {
    let old = client.keys.present.public().fingerprint();
    // Before the server waits: this can take long.
    let made = keys::generate(client.options.rsa_bits, &client.state, client.sink)?;
    let (new, bits) = (made.public().fingerprint(), made.public().bits());
    let (mut made, mut tries, mut taken) = (Some(made), 0, false);
    loop {
        // This finishes a rotation that was cut off, an earlier one or this one.
        let mut session = client.connect()?;
        if client.keys.present.public().fingerprint() == new {
            let _ = session.close();
            return Ok(KeyRotation { old, new, bits });
        }
        if taken {
            let text = "the server has lost the new key again: the old one is good as before; run this again";
            return Err(ClientError::Integrity(text.to_string()));
        }
        if !session.rotates_keys {
            let text = format!("the server at {} cannot exchange keys: update it first", session.address);
            return Err(ClientError::Impossible(text));
        }
        if let Some(made) = made.take() {
            client.keys.set_next(&client.state, made)?;
        }
        let next = client.keys.next.as_ref().expect("it was set, and only this run takes it");
        let exchanged = session.exchange_key(next);
        let _ = session.close();
        match exchanged {
            Ok(_) => taken = true,
            Err(error) if !error.is_passing() || tries >= client.options.retry.retries => return Err(error),
            Err(error) => {
                tries += 1;
                let wait = client.options.retry.wait(tries);
                client.notice(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
                if client.shutdown.wait(wait) {
                    return Err(ClientError::Interrupted);
                }
            }
        }
    }
}

impl Session {
    /// Gives the server the next key, and proves it. When this returns, the server has written it down.
    fn exchange_key(&mut self, next: &PrivateKey) -> Result<(), ClientError> {
        let public_key = next.public().spki_der();
        self.send(&ToServer::NewKey(public_key))?;
        let challenge = self.answer(|answer| match answer {
            ToClient::KeyChallenge(sealed) => Some(next.open_secret(OaepLabel::Rotation, sealed)),
            _ => None,
        })?;
        let proof = rotation_proof(&challenge, &self.server, self.client.as_bytes(), public_key);
        self.send(&ToServer::NewKeyProof(proof))?;
        self.answer(|answer| matches!(answer, ToClient::KeyTaken).then_some(()))
    }

    /// The one message that answers a request, as `take` understands it.
    fn answer<T>(&mut self, take: impl FnOnce(&ToClient<'_>) -> Option<T>) -> Result<T, ClientError> {
        let error = match self.channel.receive() {
            Ok(Some(message)) => match ToClient::decode(message.kind, message.body) {
                Ok(ToClient::Failure { code, text }) => return Err(ClientError::Failure { code, text }),
                Ok(answer) => match take(&answer) {
                    Some(taken) => return Ok(taken),
                    None => ChannelError::Violation("that answer belongs to another question"),
                },
                Err(error) => ChannelError::Malformed(error),
            },
            Ok(None) => ChannelError::Lost,
            Err(error) => error,
        };
        Err(self.error(error))
    }
}
