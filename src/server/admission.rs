//! Who is let in: the decision between messages 3 and 4, and the registration after the proof.
//!
//! Invariant: nothing is written for a peer that has not proved its key. [`decide`] only reads;
//! [`Admitted::register`] is called once the channel is confirmed.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::ids::{ClientId, UserName};
use crate::channel::LoginReceived;
use crate::crypto::{Fingerprint, PublicKey, Secret};
use crate::protocol::handshake::{Claim, Refusal, RegistrationPolicy};
use crate::storage::{ClientRecord, Store, StoreError};

/// A peer that may go on to prove its key.
#[derive(Debug)]
pub struct Admitted {
    pub client: ClientId,
    pub name: UserName,
    pub key: PublicKey,
    /// Whether it has to be registered.
    registration: Option<Registration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    New(TokenUse),
    /// Of a client that the operator has reset; it uses up the token of its name.
    NewKey,
}

/// Whether a registration uses up the token of its name.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenUse {
    None,
    Consumed,
}

/// Decides about a login; reads only.
pub fn decide(
    store: &Store,
    policy: RegistrationPolicy,
    peer: IpAddr,
    login: &LoginReceived,
) -> Result<Admitted, Refusal> {
    match login.claim() {
        Claim::Known(id) => {
            let record = store.client(*id).filter(|record| record.is_called(login.name()));
            let record = record.ok_or(Refusal::Authentication)?;
            // A client that has proved its next key has it.
            known(&record, record.next_key.as_ref().unwrap_or(&record.public_key))
        }
        Claim::KnownByKey(id, fingerprint) => {
            let record = store.client(*id).filter(|record| record.is_called(login.name()));
            let record = record.ok_or(Refusal::Authentication)?;
            let mut keys = record.next_key.iter().chain([&record.public_key]);
            let key = keys.find(|key| Fingerprint::of_der(key).as_bytes() == fingerprint);
            known(&record, key.ok_or(Refusal::Authentication)?)
        }
        Claim::Register(public_key) => match store.client_named(login.name()) {
            Some(record) if record.has_key(public_key) => known(&record, public_key),
            existing => {
                let token = may_register(store, policy, peer, login, public_key)?;
                // Only who may register learns that a name is taken.
                let (client, registration) = match existing {
                    None => (store.fresh_client_id(login.name()), Registration::New(token)),
                    // What the name has stored is worth a token, whoever else may register without one.
                    Some(record) if record.is_reset() && token == TokenUse::None => {
                        return Err(Refusal::Registration);
                    }
                    Some(record) if record.is_reset() => (record.id, Registration::NewKey),
                    Some(_) => return Err(Refusal::NameTaken),
                };
                let key = PublicKey::from_spki_der(public_key).map_err(|_| Refusal::Malformed)?;
                let name = login.name().clone();
                Ok(Admitted { client, name, key, registration: Some(registration) })
            }
        },
    }
}

/// Admits a client with one of its keys.
fn known(record: &ClientRecord, key: &[u8]) -> Result<Admitted, Refusal> {
    if record.is_reset() {
        return Err(Refusal::Authentication);
    }
    let key = PublicKey::from_spki_der(key).map_err(|error| {
        log::error!("the recorded key of {} cannot be used: {error}", record.name);
        Refusal::Authentication
    })?;
    Ok(Admitted { client: record.id, name: record.name.clone(), key, registration: None })
}

fn may_register(
    store: &Store,
    policy: RegistrationPolicy,
    peer: IpAddr,
    login: &LoginReceived,
    public_key: &[u8],
) -> Result<TokenUse, Refusal> {
    if policy == RegistrationPolicy::Closed {
        return Err(Refusal::Registration);
    }
    if login.has_token_proof() {
        let token = store.token(login.name()).unwrap_or_else(|error| {
            log::error!("{error}");
            None
        });
        let token = token.map(Secret::from_bytes).ok_or(Refusal::Token)?;
        return match login.proves_token(&token, public_key) {
            true => Ok(TokenUse::Consumed),
            false => Err(Refusal::Token),
        };
    }
    match policy {
        RegistrationPolicy::Open => Ok(TokenUse::None),
        RegistrationPolicy::Local if peer.to_canonical().is_loopback() => Ok(TokenUse::None),
        _ => Err(Refusal::Registration),
    }
}

impl Admitted {
    /// Writes a new client down, durably; gives the record of a known one. The peer has proved its key.
    /// Where that replaces the client's key, `end_others` ends the sessions that were opened with the old one.
    pub fn register(&self, store: &Store, end_others: impl FnOnce()) -> Result<Arc<ClientRecord>, StoreError> {
        match self.registration {
            None => {
                let gone = || StoreError::NotFound { what: format!("client {} is no longer here", self.name) };
                let record = store.client(self.client);
                // The operator may have reset it since.
                let record = record.filter(|record| record.has_key(self.key.spki_der())).ok_or_else(gone)?;
                if record.next_key.as_deref() == Some(self.key.spki_der()) {
                    let record = store.finish_key_rotation(record.id, self.key.spki_der())?;
                    end_others();
                    log::info!("{} has its new key: the old one is refused from now on", record.name);
                    return Ok(record);
                }
                if record.legacy {
                    store.close_to_legacy(record.id)?;
                    log::info!(
                        "{} has moved over: its name is closed to the legacy dialect from now on",
                        record.name
                    );
                }
                Ok(record)
            }
            Some(Registration::New(token)) => {
                store.register(self.client, &self.name, self.key.spki_der(), token == TokenUse::Consumed)
            }
            Some(Registration::NewKey) => store.renew_key(self.client, self.key.spki_der()),
        }
    }
}
