//! Secrets: values that never show in logs, credentials sealed at rest, and links that only we can have made.
//!
//! A sealed credential is the bytes `NAME.` nonce, ciphertext, tag: AES-256-GCM, bound to the id of the row it belongs to, so
//! that a credential copied into another row does not open there. The name of the key stands in front: the first configured key
//! seals, any configured key opens, which is how keys are changed without a pause.
//! Nothing here may put a secret into `Debug`, `Display` or an error.

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use carillon_jobs::{AddressId, BroadcastId};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::Deserialize;
use uuid::Uuid;

const KEY_LEN: usize = 32;
const MAX_NAME_LEN: usize = 16;
const UNSUBSCRIBE_VERSION: u8 = 1;
const UNSUBSCRIBE_BODY_LEN: usize = 1 + 8 + 16;
/// 128 bits of the HMAC: short enough for a link, far beyond guessing.
const UNSUBSCRIBE_TAG_LEN: usize = 16;

/// A text that must not be shown: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Do not log what you get here.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(empty)" } else { "(hidden)" })
    }
}

/// What can go wrong with keys and sealed credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No key is configured.
    #[error("there is no key")]
    NoKeys,
    /// A key has not the form `NAME:BASE64`. Its number in the list, from 1.
    #[error("key number {0} is not NAME:BASE64 (NAME: 1 to 16 small letters and digits; BASE64: 32 bytes)")]
    BadKey(usize),
    /// Two keys have one name.
    #[error("two keys are named {0}")]
    SameName(String),
    /// The system gave no random bytes, or the cipher refused; neither happens on a sound machine.
    #[error("sealing failed")]
    Seal,
    /// These are not bytes that `seal` made.
    #[error("not a sealed credential")]
    Malformed,
    /// The key that sealed it is not configured any more.
    #[error("sealed with the key {0}, which is not configured")]
    UnknownKey(String),
    /// Changed since it was sealed, or belonging to another row.
    #[error("the sealed credential was changed or belongs to another row")]
    Forged,
}

struct Key {
    name: String,
    seal: LessSafeKey,
    sign: hmac::Key,
}

/// The configured keys.
pub struct Secrets {
    /// The first one seals and signs. Never empty.
    keys: Vec<Key>,
    random: SystemRandom,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        f.debug_struct("Secrets").field("keys", &names).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Takes keys as they are configured, each `NAME:BASE64-OF-32-BYTES`.
    pub fn new(keys: &[Hidden]) -> Result<Self, SecretError> {
        let mut parsed: Vec<Key> = Vec::with_capacity(keys.len());
        for (index, text) in keys.iter().enumerate() {
            let key = parse_key(text.expose()).ok_or(SecretError::BadKey(index + 1))?;
            if parsed.iter().any(|other| other.name == key.name) {
                return Err(SecretError::SameName(key.name));
            }
            parsed.push(key);
        }
        if parsed.is_empty() {
            return Err(SecretError::NoKeys);
        }
        Ok(Self {
            keys: parsed,
            random: SystemRandom::new(),
        })
    }

    /// Seals a credential for the row with this id.
    pub fn seal(&self, plain: &[u8], row: Uuid) -> Result<Vec<u8>, SecretError> {
        let key = self.keys.first().ok_or(SecretError::NoKeys)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SecretError::Seal)?;
        let mut body = plain.to_vec();
        let aad = Aad::from(*row.as_bytes());
        key.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .map_err(|_| SecretError::Seal)?;
        Ok([key.name.as_bytes(), b".", &nonce, &body].concat())
    }

    /// Opens what [`seal`](Self::seal) made for the same row.
    pub fn open(&self, sealed: &[u8], row: Uuid) -> Result<Vec<u8>, SecretError> {
        let (name, body) = split_name(sealed).ok_or(SecretError::Malformed)?;
        let key = self.keys.iter().find(|key| key.name == name);
        let key = key.ok_or_else(|| SecretError::UnknownKey(name.to_owned()))?;
        let mut body = body.to_vec();
        let (nonce, text) = body.split_at_mut_checked(NONCE_LEN).ok_or(SecretError::Malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Malformed)?;
        let aad = Aad::from(*row.as_bytes());
        key.seal
            .open_in_place(nonce, aad, text)
            .map(|plain| plain.to_vec())
            .map_err(|_| SecretError::Forged)
    }

    /// Whether a credential should be sealed anew because an older key sealed it.
    #[must_use]
    pub fn is_outdated(&self, sealed: &[u8]) -> bool {
        let current = self.keys.first().map(|key| key.name.as_str());
        split_name(sealed).map(|(name, _)| name) != current
    }

    /// The token of a one-click unsubscribe link: opaque, about 55 characters, good for ever (as mail is kept for ever).
    #[must_use]
    pub fn unsubscribe_token(&self, address: AddressId, broadcast: BroadcastId) -> String {
        let mut token = Vec::with_capacity(UNSUBSCRIBE_BODY_LEN + UNSUBSCRIBE_TAG_LEN);
        token.push(UNSUBSCRIBE_VERSION);
        token.extend_from_slice(&address.0.to_be_bytes());
        token.extend_from_slice(broadcast.0.as_bytes());
        if let Some(key) = self.keys.first() {
            let tag = hmac::sign(&key.sign, &token);
            token.extend(tag.as_ref().iter().take(UNSUBSCRIBE_TAG_LEN));
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Whose link it is; `None` for anything that we did not make.
    #[must_use]
    pub fn verify_unsubscribe(&self, token: &str) -> Option<(AddressId, BroadcastId)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, tag) = bytes.split_at_checked(UNSUBSCRIBE_BODY_LEN)?;
        if tag.len() != UNSUBSCRIBE_TAG_LEN || !self.keys.iter().any(|key| tag_fits(&key.sign, body, tag)) {
            return None;
        }
        let (version, ids) = body.split_first()?;
        let (address, broadcast) = ids.split_at_checked(8)?;
        if *version != UNSUBSCRIBE_VERSION {
            return None;
        }
        let address = AddressId(i64::from_be_bytes(address.try_into().ok()?));
        Some((address, BroadcastId(Uuid::from_slice(broadcast).ok()?)))
    }
}

/// A new key in the form the configuration takes.
pub fn new_key(name: &str) -> Result<String, SecretError> {
    let mut bytes = [0; KEY_LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::Seal)?;
    let text = format!("{name}:{}", STANDARD.encode(bytes));
    parse_key(&text).map(|_| text).ok_or(SecretError::BadKey(1))
}

/// The name in front and the rest; `None` when there is no proper name.
fn split_name(sealed: &[u8]) -> Option<(&str, &[u8])> {
    let dot = sealed.iter().take(MAX_NAME_LEN + 1).position(|byte| *byte == b'.')?;
    let (name, rest) = sealed.split_at_checked(dot)?;
    Some((std::str::from_utf8(name).ok()?, rest.get(1..)?))
}

fn parse_key(text: &str) -> Option<Key> {
    let (name, body) = text.trim().split_once(':')?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(plain) {
        return None;
    }
    let bytes = STANDARD.decode(body).ok().filter(|bytes| bytes.len() == KEY_LEN)?;
    // Two purposes, two keys: neither can be used to attack the other.
    let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"carillon").extract(&bytes);
    let seal = derive(&root, b"seal credentials, version 1")?;
    let sign = derive(&root, b"sign unsubscribe links, version 1")?;
    let seal = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &seal).ok()?);
    Some(Key {
        name: name.to_owned(),
        seal,
        sign: hmac::Key::new(hmac::HMAC_SHA256, &sign),
    })
}

fn derive(root: &hkdf::Prk, purpose: &[u8]) -> Option<[u8; KEY_LEN]> {
    let mut bytes = [0; KEY_LEN];
    root.expand(&[purpose], hkdf::HKDF_SHA256).ok()?.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Compares without telling by its time how much was right.
fn tag_fits(key: &hmac::Key, body: &[u8], tag: &[u8]) -> bool {
    let full = hmac::sign(key, body);
    let difference = full.as_ref().iter().zip(tag).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keys(names: &[&str]) -> Vec<Hidden> {
        let key = |name: &&str| {
            Hidden::new(format!(
                "{name}:{}",
                STANDARD.encode([name.as_bytes().iter().sum::<u8>(); 32])
            ))
        };
        names.iter().map(key).collect()
    }

    #[test]
    fn what_is_sealed_opens_for_the_same_row_and_no_other() {
        let secrets = Secrets::new(&keys(&["k1"])).unwrap();
        let row = Uuid::now_v7();
        let sealed = secrets.seal(b"channel secret", row).unwrap();
        assert_eq!(secrets.open(&sealed, row).unwrap(), b"channel secret");
        assert_eq!(secrets.open(&sealed, Uuid::now_v7()), Err(SecretError::Forged));
        assert!(!sealed.windows(7).any(|part| part == b"channel"));
        assert_ne!(
            sealed,
            secrets.seal(b"channel secret", row).unwrap(),
            "a nonce was used twice"
        );
    }

    #[test]
    fn a_changed_credential_does_not_open() {
        let secrets = Secrets::new(&keys(&["k1"])).unwrap();
        let row = Uuid::now_v7();
        let mut sealed = secrets.seal(b"token", row).unwrap();
        for index in 3..sealed.len() {
            *sealed.get_mut(index).unwrap() ^= 1;
            assert_eq!(secrets.open(&sealed, row), Err(SecretError::Forged));
            *sealed.get_mut(index).unwrap() ^= 1;
        }
        for bytes in [
            &b""[..],
            b"k1",
            b"k1.",
            b"k1.short",
            b"a-name-that-is-much-too-long.xxx",
            b"\xff\xfe.xxx",
        ] {
            assert_eq!(secrets.open(bytes, row), Err(SecretError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn keys_are_changed_without_losing_what_the_old_one_sealed() {
        let row = Uuid::now_v7();
        let old = Secrets::new(&keys(&["k1"])).unwrap();
        let both = Secrets::new(&keys(&["k2", "k1"])).unwrap();
        let new = Secrets::new(&keys(&["k2"])).unwrap();
        let sealed = old.seal(b"token", row).unwrap();
        assert_eq!(both.open(&sealed, row).unwrap(), b"token");
        assert!(both.is_outdated(&sealed));
        let again = both.seal(b"token", row).unwrap();
        assert!(!both.is_outdated(&again));
        assert_eq!(new.open(&again, row).unwrap(), b"token");
        assert_eq!(new.open(&sealed, row), Err(SecretError::UnknownKey("k1".into())));
        let token = old.unsubscribe_token(AddressId(7), BroadcastId::new());
        assert!(both.verify_unsubscribe(&token).is_some());
        assert!(new.verify_unsubscribe(&token).is_none());
    }

    #[test]
    fn an_unsubscribe_token_names_its_address_and_cannot_be_guessed_from_another() {
        let secrets = Secrets::new(&keys(&["k1"])).unwrap();
        let broadcast = BroadcastId::new();
        let token = secrets.unsubscribe_token(AddressId(i64::MAX), broadcast);
        assert_eq!(
            secrets.verify_unsubscribe(&token),
            Some((AddressId(i64::MAX), broadcast))
        );
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for index in 0..bytes.len() {
            *bytes.get_mut(index).unwrap() ^= 0x10;
            assert_eq!(secrets.verify_unsubscribe(&URL_SAFE_NO_PAD.encode(&bytes)), None);
            *bytes.get_mut(index).unwrap() ^= 0x10;
        }
        for text in [
            "",
            "x",
            "AAAA",
            &token[..token.len() - 2],
            &format!("{token}AAAA"),
            "中文",
        ] {
            assert_eq!(secrets.verify_unsubscribe(text), None, "{text:?}");
        }
    }

    #[test]
    fn bad_keys_are_named_by_number_and_never_shown() {
        let bad =
            |texts: &[&str]| Secrets::new(&texts.iter().copied().map(Hidden::new).collect::<Vec<_>>()).unwrap_err();
        let good = new_key("k1").unwrap();
        assert_eq!(bad(&[]), SecretError::NoKeys);
        assert_eq!(bad(&[&good, "k2:c2hvcnQ="]), SecretError::BadKey(2));
        assert_eq!(bad(&[&good, &good]), SecretError::SameName("k1".into()));
        for text in ["", "k1", ":AAAA", "K1:AAAA", "k1:notbase64"] {
            assert_eq!(bad(&[text]), SecretError::BadKey(1), "{text}");
        }
        assert!(new_key("Not a name").is_err());
    }

    #[test]
    fn debug_shows_nothing_secret() {
        let hidden = Hidden::new("swordfish");
        let secrets = Secrets::new(&keys(&["k1"])).unwrap();
        let shown = format!("{hidden:?} {secrets:?}");
        assert!(!shown.contains("swordfish"));
        assert_eq!(shown, "(hidden) Secrets { keys: [\"k1\"], .. }");
    }
}
