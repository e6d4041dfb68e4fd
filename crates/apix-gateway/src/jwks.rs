//! Key sets as their issuers write them (RFC 7517): which keys of one can be used.

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::credentials::Algorithm;
use crate::public_key::{ed25519_of_jwk, p256_of_jwk, rsa_of_jwk};

/// The largest key set that is read, in bytes.
pub(crate) const MAX_JWKS_BYTES: usize = 512 << 10;
/// The most keys of one set: each may be tried on a token that names none.
const MAX_KEYS: usize = 64;

/// A key of a set.
pub(crate) struct PublishedKey {
    pub(crate) kid: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

#[derive(Deserialize)]
struct SetForm<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct KeyForm {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of `document` that can check signatures of the `allowed` algorithms. Others are left
/// out: a set may have keys for other purposes.
pub(crate) fn read_set(
    document: &[u8],
    allowed: &[Algorithm],
) -> Result<Vec<PublishedKey>, String> {
    if document.len() > MAX_JWKS_BYTES {
        return Err(format!("the key set has more than {MAX_JWKS_BYTES} bytes"));
    }
    let set: SetForm<'_> =
        serde_json::from_slice(document).map_err(|fault| format!("no key set: {fault}"))?;
    if set.keys.len() > MAX_KEYS {
        return Err(format!("the key set has {} keys; the limit is {MAX_KEYS}", set.keys.len()));
    }
    let mut keys = Vec::new();
    for raw in set.keys {
        match read_key(raw.get(), allowed) {
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(why, "a key of a key set is not used"),
        }
    }
    if keys.is_empty() {
        return Err("the key set has no key that can be used".to_owned());
    }
    Ok(keys)
}

fn read_key(text: &str, allowed: &[Algorithm]) -> Result<PublishedKey, String> {
    let form: KeyForm = serde_json::from_str(text).map_err(|fault| fault.to_string())?;
    let signs = form.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
    let verifies = form.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !signs || !verifies {
        return Err("it is not for signatures".to_owned());
    }
    let field =
        |field: &Option<String>| field.clone().ok_or_else(|| "a field is missing".to_owned());
    let (algorithm, name, key) = match (form.kty.as_str(), form.crv.as_deref()) {
        ("RSA", _) => (Algorithm::RS256, "RS256", rsa_of_jwk(&field(&form.n)?, &field(&form.e)?)?),
        ("EC", Some("P-256")) => {
            (Algorithm::ES256, "ES256", p256_of_jwk(&field(&form.x)?, &field(&form.y)?)?)
        }
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA", ed25519_of_jwk(&field(&form.x)?)?),
        ("oct", _) => return Err("a shared secret has no place in a key set".to_owned()),
        (kty, crv) => return Err(format!("keys of {kty} {} are not supported", crv.unwrap_or(""))),
    };
    // RFC 9864 calls EdDSA on this curve by the curve's name.
    let fits = form
        .alg
        .as_deref()
        .is_none_or(|alg| alg == name || (alg == "Ed25519" && algorithm == Algorithm::EdDSA));
    if !fits || !allowed.contains(&algorithm) {
        return Err("it is for an algorithm that is not allowed".to_owned());
    }
    Ok(PublishedKey { kid: form.kid, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    fn bytes(count: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xc5; count])
    }

    fn rsa() -> Value {
        json!({ "kty": "RSA", "kid": "r", "n": bytes(256), "e": "AQAB", "x5c": ["…"] })
    }

    fn used(keys: &Value, allowed: &[Algorithm]) -> Result<Vec<Algorithm>, String> {
        let document = json!({ "keys": keys, "more": 1 }).to_string();
        Ok(read_set(document.as_bytes(), allowed)?.iter().map(|key| key.algorithm).collect())
    }

    #[test]
    fn keys_that_fit_are_used_and_others_are_left_out() {
        let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        let of_alg = |alg: &str| {
            let mut key = rsa();
            key["alg"] = json!(alg);
            key
        };
        let keys = json!([
            rsa(),
            { "kty": "EC", "crv": "P-256", "x": bytes(32), "y": bytes(32), "use": "sig" },
            { "kty": "OKP", "crv": "Ed25519", "x": bytes(32), "key_ops": ["verify"] },
            { "kty": "EC", "crv": "P-521", "x": bytes(66), "y": bytes(66) },
            { "kty": "RSA", "n": bytes(256), "e": "AQAB", "use": "enc" },
            { "kty": "RSA", "n": bytes(256), "e": "AQAB", "key_ops": ["sign"] },
            { "kty": "RSA", "n": bytes(128), "e": "AQAB" },
            { "kty": "oct", "k": bytes(32), "alg": "HS256" },
            { "kty": "new" },
            "nonsense",
            of_alg("HS256"),
            of_alg("none"),
            of_alg("PS256"),
        ]);
        assert_eq!(used(&keys, &all).unwrap(), all);
        assert_eq!(used(&keys, &[Algorithm::ES256]).unwrap(), [Algorithm::ES256]);
    }

    #[test]
    fn a_set_without_a_key_to_use_is_no_set() {
        for (document, message) in [
            ("", "no key set"),
            ("{}", "missing field `keys`"),
            (r#"{"keys":[]}"#, "no key that can be used"),
            (r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, "no key that can be used"),
        ] {
            let fault = read_set(document.as_bytes(), &[Algorithm::RS256]).err().unwrap();
            assert!(fault.contains(message), "{document}: {fault}");
        }
        let many = used(&json!(vec![rsa(); 65]), &[Algorithm::RS256]).unwrap_err();
        assert!(many.contains("65 keys"), "{many}");
        let large = read_set(&vec![b' '; MAX_JWKS_BYTES + 1], &[]).err().unwrap();
        assert!(large.contains("bytes"), "{large}");
    }
}
