//! The vault of this host: made, opened, locked, sealed under another passphrase, and its key file for a copy.

use std::borrow::Cow;
use std::io::Read;

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::answer::{Answer, attachment};
use super::error::ApiError;
use super::routes::{BODY_BYTES_MAX, Call, Reply};
use crate::base::limits::PASSPHRASE_BYTES_MAX;

/// What comes with a passphrase, and is wiped when it was used.
struct Passphrases {
    passphrase: Zeroizing<String>,
    /// What it is to become.
    new: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct Wish<'a> {
    #[serde(borrow)]
    passphrase: Cow<'a, str>,
    #[serde(borrow)]
    new: Option<Cow<'a, str>>,
}

pub fn look(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    Ok(Reply::from(json!({ "vault": call.app.vault.json()? })))
}

pub fn create(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish = passphrases(call)?;
    check(&wish.passphrase)?;
    call.app.vault.create(&wish.passphrase)?;
    look(call)
}

pub fn open(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish = passphrases(call)?;
    check(&wish.passphrase)?;
    call.app.vault.open(&wish.passphrase)?;
    look(call)
}

pub fn lock(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    call.app.vault.lock();
    look(call)
}

pub fn change_passphrase(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let wish = passphrases(call)?;
    let new = wish.new.as_ref().ok_or_else(|| ApiError::bad("new is missing: the new passphrase"))?;
    check(&wish.passphrase)?;
    check(new)?;
    call.app.vault.change_passphrase(&wish.passphrase, new)?;
    look(call)
}

/// `vault.key` as it lies in the state folder: sealed.
pub fn key_file(call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let bytes = call.app.vault.key_file_bytes()?;
    let answer = Answer { status: 200, content_type: "application/octet-stream", headers: Vec::new(), body: bytes };
    Ok(Reply::Answer(answer.with("Content-Disposition", attachment(b"vault.key"))))
}

fn check(passphrase: &str) -> Result<(), ApiError> {
    match passphrase.len() {
        0 => Err(ApiError::bad("the passphrase is empty: it would seal nothing")),
        bytes if bytes > PASSPHRASE_BYTES_MAX => {
            Err(ApiError::bad(format!("a passphrase has at most {PASSPHRASE_BYTES_MAX} bytes")))
        }
        _ => Ok(()),
    }
}

/// Reads the body into memory that is wiped. What is wrong with it is not told in its own words.
fn passphrases(call: &mut Call<'_>) -> Result<Passphrases, ApiError> {
    let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX as usize + 1));
    (&mut *call.body).take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?;
    if body.len() as u64 > BODY_BYTES_MAX {
        return Err(ApiError::new(413, format!("the body has more than {BODY_BYTES_MAX} bytes")));
    }
    let wish: Wish = serde_json::from_slice(&body)
        .map_err(|_| ApiError::bad("an object is wanted, as {\"passphrase\": …}, and \"new\" where it changes"))?;
    let kept = |text: Cow<'_, str>| Zeroizing::new(text.into_owned());
    Ok(Passphrases { passphrase: kept(wish.passphrase), new: wish.new.map(kept) })
}
