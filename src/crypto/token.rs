//! The enrolment token as a person handles it: `cb3-` and, in URL-safe base64, 16 random bytes and the
//! server's fingerprint. Whoever has the text can register one name once, and knows which server is the
//! right one.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::error::CryptoError;
use super::rsa_keys::Fingerprint;
use super::secret::Secret;

const PREFIX: &str = "cb3-";
const SECRET_BYTES: usize = 16;
const TOKEN_BYTES: usize = SECRET_BYTES + 32;

/// An enrolment token.
#[derive(Debug)]
pub struct EnrolToken {
    pub secret: Secret<SECRET_BYTES>,
    /// Of the server that made it: the pin of the first contact.
    pub server: Fingerprint,
}

impl EnrolToken {
    /// The text for a person; it holds the secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([&self.secret.expose()[..], self.server.as_bytes()].concat());
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }
}

impl FromStr for EnrolToken {
    type Err = CryptoError;

    /// Takes the text of a token; white space around it does not matter.
    fn from_str(text: &str) -> Result<EnrolToken, CryptoError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(CryptoError::TokenMalformed)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| CryptoError::TokenMalformed)?);
        let whole: &[u8; TOKEN_BYTES] = bytes[..].try_into().map_err(|_| CryptoError::TokenMalformed)?;
        let (secret, server) = whole.split_at(SECRET_BYTES);
        Ok(EnrolToken {
            secret: Secret::from_bytes(secret.try_into().expect("cut at 16 bytes")),
            server: Fingerprint::from_bytes(server.try_into().expect("32 bytes are left")),
        })
    }
}

/// Nothing of the secret.
impl fmt::Display for EnrolToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a token of the server {}", self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text() {
        let token = EnrolToken { secret: Secret::from_bytes([7; 16]), server: Fingerprint::from_bytes([9; 32]) };
        let text = token.to_text();
        assert!(text.starts_with("cb3-BwcH") && text.len() == 68, "{}", text.as_str());
        let back: EnrolToken = format!(" {}\n", text.as_str()).parse().unwrap();
        assert_eq!((back.secret.expose(), back.server), (token.secret.expose(), token.server));
    }

    #[test]
    fn other_text_is_no_token() {
        for bad in ["", "cb3-", "cb3-AAAA", "BwcH", "cb3-!!!!"] {
            assert_eq!(bad.parse::<EnrolToken>().err(), Some(CryptoError::TokenMalformed), "{bad}");
        }
    }
}
