//! Public keys that tokens are checked with, and what makes one fit an algorithm.
//!
//! A key is read for one algorithm, strictly: a wrong kind, curve or size is found when it is
//! read, not by refusing every token.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;

use crate::credentials::Algorithm;

/// What stands around the key of an algorithm in a `SubjectPublicKeyInfo` (RFC 5280).
const RSA_ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const P256_HEAD: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const ED25519_HEAD: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
const P256_COORDINATE_BYTES: usize = 32;
const ED25519_BYTES: usize = 32;
/// What the signatures of RS256 are checked with takes no others.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Reads the PEM text of a public key for `algorithm`.
pub(crate) fn read_pem(text: &[u8], algorithm: Algorithm) -> Result<DecodingKey, String> {
    let (label, der) = decode_pem(text)?;
    match (algorithm, &*label) {
        (Algorithm::RS256, "RSA PUBLIC KEY") => rsa_key(&der),
        (Algorithm::RS256, "PUBLIC KEY") => {
            rsa_key(rsa_of_info(&der).ok_or("the public key is no RSA key")?)
        }
        (Algorithm::ES256, "PUBLIC KEY") => match der.strip_prefix(P256_HEAD) {
            Some(point) if point.len() == 1 + 2 * P256_COORDINATE_BYTES && point[0] == 4 => {
                Ok(DecodingKey::from_ec_der(point))
            }
            _ => Err("the public key is no uncompressed point of the curve P-256".to_owned()),
        },
        (Algorithm::EdDSA, "PUBLIC KEY") => match der.strip_prefix(ED25519_HEAD) {
            Some(key) if key.len() == ED25519_BYTES => Ok(DecodingKey::from_ed_der(key)),
            _ => Err("the public key is no Ed25519 key".to_owned()),
        },
        (_, label) if label.contains("PRIVATE") => {
            Err("the file holds a private key; give the public one".to_owned())
        }
        (_, label) => {
            Err(format!("the PEM text holds a {label:?}; {algorithm:?} needs a \"PUBLIC KEY\""))
        }
    }
}

/// The label and the bytes of the one block in a PEM text.
fn decode_pem(text: &[u8]) -> Result<(String, Vec<u8>), String> {
    let text = std::str::from_utf8(text).map_err(|_| "the key is no PEM text")?;
    let (_, rest) = text.split_once("-----BEGIN ").ok_or("the key is no PEM text")?;
    let (label, rest) = rest.split_once("-----").ok_or("the key is no PEM text")?;
    let end = format!("-----END {label}-----");
    let (body, after) =
        rest.split_once(&*end).ok_or_else(|| format!("the PEM text lacks {end:?}"))?;
    if after.contains("-----BEGIN ") {
        return Err("the PEM text holds several keys; give each its own entry".to_owned());
    }
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| "the PEM text is damaged")?;
    Ok((label.to_owned(), der))
}

/// An RSA key of its modulus and exponent, in Base64 (RFC 7518).
pub(crate) fn rsa_of_jwk(n: &str, e: &str) -> Result<DecodingKey, String> {
    let modulus = from_base64url("n", n)?;
    let exponent = from_base64url("e", e)?;
    check_rsa(&modulus)?;
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// A key on the curve P-256 of its coordinates, in Base64.
pub(crate) fn p256_of_jwk(x: &str, y: &str) -> Result<DecodingKey, String> {
    let mut point = vec![4];
    for (name, coordinate) in [("x", x), ("y", y)] {
        let coordinate = from_base64url(name, coordinate)?;
        if coordinate.len() != P256_COORDINATE_BYTES {
            return Err(format!("{name} has {} bytes, not 32", coordinate.len()));
        }
        point.extend(coordinate);
    }
    Ok(DecodingKey::from_ec_der(&point))
}

/// An Ed25519 key, in Base64.
pub(crate) fn ed25519_of_jwk(x: &str) -> Result<DecodingKey, String> {
    let key = from_base64url("x", x)?;
    if key.len() != ED25519_BYTES {
        return Err(format!("x has {} bytes, not 32", key.len()));
    }
    Ok(DecodingKey::from_ed_der(&key))
}

fn from_base64url(name: &str, text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{name} is not Base64"))
}

/// `der` is an `RSAPublicKey` of RFC 8017.
fn rsa_key(der: &[u8]) -> Result<DecodingKey, String> {
    let modulus = modulus(der).ok_or("the RSA key is damaged")?;
    check_rsa(modulus)?;
    Ok(DecodingKey::from_rsa_der(der))
}

fn rsa_of_info(info: &[u8]) -> Option<&[u8]> {
    let (info, []) = element(info, SEQUENCE)? else { return None };
    let (bits, []) = element(info.strip_prefix(RSA_ALGORITHM)?, BIT_STRING)? else { return None };
    bits.strip_prefix(&[0])
}

fn modulus(der: &[u8]) -> Option<&[u8]> {
    let (key, []) = element(der, SEQUENCE)? else { return None };
    let (modulus, rest) = element(key, INTEGER)?;
    let (_exponent, []) = element(rest, INTEGER)? else { return None };
    Some(modulus)
}

fn check_rsa(modulus: &[u8]) -> Result<(), String> {
    let zeros = modulus.iter().take_while(|&&byte| byte == 0).count();
    let bits = match &modulus[zeros..] {
        [] => 0,
        [first, rest @ ..] => rest.len() * 8 + 8 - first.leading_zeros() as usize,
    };
    if RSA_BITS.contains(&bits) {
        return Ok(());
    }
    Err(format!(
        "the RSA key has {bits} bits; it must have {} to {}",
        RSA_BITS.start(),
        RSA_BITS.end()
    ))
}

/// The content of the DER element at the start of `der`, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = der else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let [high, low, rest @ ..] = rest else { return None };
            (usize::from(*high) << 8 | usize::from(*low), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RSA: &[u8] = include_bytes!("../tests/it/keys/rsa.pub");
    const RSA_PKCS1: &[u8] = include_bytes!("../tests/it/keys/rsa1.pub");
    const SMALL_RSA: &[u8] = include_bytes!("../tests/it/keys/small.pub");
    const P256: &[u8] = include_bytes!("../tests/it/keys/ec.pub");
    const P384: &[u8] = include_bytes!("../tests/it/keys/p384.pub");
    const ED25519: &[u8] = include_bytes!("../tests/it/keys/ed.pub");
    const PRIVATE: &[u8] = include_bytes!("../tests/it/keys/ed.pem");

    #[test]
    fn a_key_fits_one_algorithm() {
        let fitting = [
            (RSA, Algorithm::RS256),
            (RSA_PKCS1, Algorithm::RS256),
            (P256, Algorithm::ES256),
            (ED25519, Algorithm::EdDSA),
        ];
        for (key, its_own) in fitting {
            for algorithm in
                [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
            {
                assert_eq!(read_pem(key, algorithm).is_ok(), algorithm == its_own, "{algorithm:?}");
            }
        }
    }

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(der))
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_reader_panic(
            cut in 0_usize..300, at in 0_usize..300, byte: u8, text in ".{0,80}",
        ) {
            let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
            for (key, algorithm) in [RSA, P256, ED25519].into_iter().zip(algorithms) {
                let (_, mut der) = decode_pem(key).unwrap();
                let at = at % der.len();
                der[at] = byte;
                der.truncate(cut.max(1));
                let _ = read_pem(pem(&der).as_bytes(), algorithm);
                let _ = read_pem(text.as_bytes(), algorithm);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said() {
        let twice = [RSA, RSA].concat();
        for (key, algorithm, message) in [
            (SMALL_RSA, Algorithm::RS256, "1024 bits; it must have 2048"),
            (P384, Algorithm::ES256, "curve P-256"),
            (PRIVATE, Algorithm::EdDSA, "private key"),
            (b"ssh-rsa AAAA".as_slice(), Algorithm::RS256, "no PEM text"),
            (&RSA[..200], Algorithm::RS256, "lacks \"-----END PUBLIC KEY-----\""),
            (&twice, Algorithm::RS256, "several keys"),
        ] {
            let fault = read_pem(key, algorithm).err().unwrap();
            assert!(fault.contains(message), "{message}: {fault}");
        }
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        assert!(p256_of_jwk(&short, &short).is_err());
        assert!(ed25519_of_jwk(&short).is_err());
        assert!(rsa_of_jwk(&short, "AQAB").is_err());
    }
}
