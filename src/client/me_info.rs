//! `me.info`, in which a legacy client keeps who it is: name, id and private key.
//!
//! ```text
//! line 1     the user name
//! line 2     the client id, 32 lower-case hex digits
//! line 3 …   the private key, PKCS#8 DER in Base64, on one line or wrapped
//! ```
//! It is written with the key on one line: whoever reads one line finds all of it, and whoever reads to the end too.
//! The native client takes the key over from it, and never writes it.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::state::{StateError, StateFolder};
use crate::base::ids::{ClientId, UserName};
use crate::base::path::display_bytes;
use crate::crypto::{CryptoError, PrivateKey, PublicKey};

pub const ME_INFO: &str = "me.info";

/// A legacy client's identity.
#[derive(Debug)]
pub struct MeInfo {
    pub name: UserName,
    pub client: ClientId,
    pub key: PrivateKey,
}

/// An identity that was found, and where.
#[derive(Debug)]
pub struct FoundMeInfo {
    pub info: MeInfo,
    pub file: PathBuf,
}

impl MeInfo {
    /// Takes the bytes of the file; a problem names what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<MeInfo, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_string())?;
        let mut lines = text.lines();
        let mut line = |wanted: &str| lines.next().map(str::trim_end).ok_or(format!("{wanted} is missing"));
        let name = line("line 1, the name,")?.parse().map_err(|error| format!("line 1: {error}"))?;
        let client = line("line 2, the client id,")?.to_ascii_lowercase();
        let client = client.parse().map_err(|error| format!("line 2: {error}"))?;
        let mut encoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
        lines.for_each(|line| encoded.extend(line.bytes().filter(|byte| !byte.is_ascii_whitespace())));
        // Room for all of it, so that decoding never moves the key.
        let mut der = Zeroizing::new(Vec::with_capacity(encoded.len()));
        STANDARD.decode_vec(&*encoded, &mut der).map_err(|_| "the private key is no Base64".to_string())?;
        let key = PrivateKey::from_pkcs8_der(&der).map_err(|error| error.to_string())?;
        PublicKey::from_legacy_der(key.public().spki_der()).map_err(|error| error.to_string())?;
        Ok(MeInfo { name, client, key })
    }

    /// The bytes of the file.
    pub fn encode(name: &UserName, client: ClientId, key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let der = key.to_pkcs8_der()?;
        let head = format!("{name}\n{client}\n");
        let mut bytes = Zeroizing::new(vec![0; head.len() + der.len().div_ceil(3) * 4 + 1]);
        bytes[..head.len()].copy_from_slice(head.as_bytes());
        let end = bytes.len() - 1;
        let written = STANDARD.encode_slice(&*der, &mut bytes[head.len()..end]);
        debug_assert_eq!(written, Ok(end - head.len()));
        bytes[end] = b'\n';
        Ok(bytes)
    }
}

/// The identity that lies in the state folder; none where there is no such file.
///
/// # Errors
/// [`StateError::Damaged`] where it cannot be understood.
pub fn in_state(state: &StateFolder) -> Result<Option<FoundMeInfo>, StateError> {
    let file = state.path().join(ME_INFO);
    let Some(bytes) = state.read_file(ME_INFO)? else { return Ok(None) };
    let damaged = |problem| StateError::Damaged { file: file.clone(), problem };
    let info = MeInfo::parse(&bytes).map_err(damaged)?;
    Ok(Some(FoundMeInfo { info, file }))
}

/// The name in the state folder's `me.info`, if there is a good one.
pub fn legacy_user(state: &StateFolder) -> Option<UserName> {
    in_state(state).ok().flatten().map(|found| found.info.name)
}

/// The identity of `user` that an installed client left beside the `transfer.info` in use. One that cannot be used is
/// told through `notice`.
pub fn beside(state: &StateFolder, user: &UserName, notice: impl Fn(&str)) -> Option<FoundMeInfo> {
    let file = state.installed_file(ME_INFO)?;
    let read = super::state::read_bounded(&file).map_err(|error| error.to_string());
    let parsed = read.transpose()?.and_then(|bytes| MeInfo::parse(&bytes));
    usable(parsed, file, user, notice)
}

/// The identity that a native client without a key takes over: from the state folder, else from beside the
/// `transfer.info`.
pub fn to_take_over(state: &StateFolder, user: &UserName, notice: impl Fn(&str)) -> Option<FoundMeInfo> {
    let found = match in_state(state) {
        Ok(None) => return beside(state, user, notice),
        Ok(Some(found)) => Ok(found.info),
        Err(error) => Err(error.to_string()),
    };
    usable(found, state.path().join(ME_INFO), user, notice)
}

fn usable(
    parsed: Result<MeInfo, String>,
    file: PathBuf,
    user: &UserName,
    notice: impl Fn(&str),
) -> Option<FoundMeInfo> {
    match parsed {
        Ok(info) if info.name == *user => Some(FoundMeInfo { info, file }),
        Ok(info) => {
            notice(&format!("{} belongs to {}, not {user}: it is not used", shown(&file), info.name));
            None
        }
        Err(problem) => {
            notice(&format!("{} is not used: {problem}", shown(&file)));
            None
        }
    }
}

pub fn shown(file: &Path) -> String {
    display_bytes(std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::LegacyExponent;

    fn key() -> PrivateKey {
        PrivateKey::generate_legacy(LegacyExponent::Seventeen).unwrap()
    }

    fn written(key: &PrivateKey) -> String {
        let (name, client) = ("ada".parse().unwrap(), ClientId::from_bytes([0xAB; 16]));
        String::from_utf8(MeInfo::encode(&name, client, key).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn what_is_written_has_three_lines_and_is_read_again() {
        let key = key();
        let text = written(&key);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (3, "ada", "ab".repeat(16).as_str()));
        assert!(text.ends_with('\n') && !text.contains('\0'));
        let read = MeInfo::parse(text.as_bytes()).unwrap();
        assert_eq!((read.name.as_str(), read.key.public()), ("ada", key.public()));
        assert_eq!(read.client, ClientId::from_bytes([0xAB; 16]));
    }

    #[test]
    fn wrapped_lines_and_line_ends_of_windows_are_read() {
        let key = key();
        let text = written(&key);
        let (head, encoded) = text.trim_end().rsplit_once('\n').unwrap();
        let chunks: Vec<&str> =
            encoded.as_bytes().chunks(72).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
        for wrapped in [
            format!("{head}\n{}\n", chunks.join("\n")),
            format!("{head}\n{}", chunks.join("\n")).replace('\n', "\r\n"),
            format!("{}\n\n{encoded}\n\n", head.to_uppercase().replace("ADA", "ada")),
        ] {
            assert_eq!(MeInfo::parse(wrapped.as_bytes()).unwrap().key.public(), key.public(), "{wrapped}");
        }
    }

    #[test]
    fn what_is_no_identity_names_the_problem() {
        let text = written(&key());
        let native = PrivateKey::generate(1032).unwrap();
        let cases = [
            (String::new(), "line 1, the name, is missing"),
            ("ada\n".into(), "line 2, the client id, is missing"),
            ("ada\nxyz\n".into(), "line 2: client id: 32 lower-case hex digits are wanted"),
            (text.replace("ada\n", "\n"), "line 1: user name: the name is empty"),
            (text.replacen('M', "!", 1), "the private key is no Base64"),
            (text[..101].to_string() + "\n", "the RSA private key is not valid PKCS#8 DER"),
            (written(&native), "an RSA key of 1032 bits"),
        ];
        for (text, problem) in cases {
            let found = MeInfo::parse(text.as_bytes()).unwrap_err();
            assert!(found.starts_with(problem), "{found:?}, not {problem:?}");
        }
    }
}
