//! Whose tokens are believed: what a key may be used for, beside checking a signature.

use apix::{Action, Error, Permissions, Result, TenantId};
use jsonwebtoken::{DecodingKey, Validation};

use crate::credentials::Algorithm;

/// What holds for every key of one entry of the configuration.
pub(crate) struct Trust {
    /// The tenants that its tokens may name.
    tenants: Permissions,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_seconds: u64,
}

impl Trust {
    pub(crate) fn new(
        what: &str,
        tenants: &[String],
        issuer: Option<&str>,
        audience: Option<&str>,
        leeway_seconds: u64,
    ) -> Result<Self> {
        if tenants.is_empty() {
            return Err(Error::invalid(format!(
                "{what}: tenants is empty; list the tenants it may speak for, or \"*\" for all"
            )));
        }
        let patterns = tenants.iter().map(|pattern| format!("tenants:act-as:{pattern}"));
        let tenants = Permissions::parse(patterns)
            .map_err(|fault| Error::invalid(format!("{what}: {fault}")))?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self { tenants, issuer: owned(issuer), audience: owned(audience), leeway_seconds })
    }

    pub(crate) fn may_speak_for(&self, tenant: &TenantId) -> bool {
        self.tenants.allows(Action::TenantsActAs, tenant.as_str(), None)
    }

    /// `key`, good for tokens of this algorithm and no other.
    pub(crate) fn key(
        &self,
        kid: Option<String>,
        algorithm: Algorithm,
        key: DecodingKey,
    ) -> TrustedKey {
        let mut rules = Validation::new(match algorithm {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        });
        rules.leeway = self.leeway_seconds;
        rules.validate_nbf = true;
        rules.validate_aud = self.audience.is_some();
        if let Some(issuer) = &self.issuer {
            rules.set_issuer(&[issuer]);
            rules.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = &self.audience {
            rules.set_audience(&[audience]);
            rules.required_spec_claims.insert("aud".to_owned());
        }
        TrustedKey { kid, key, rules }
    }
}

/// A key with the rules for its tokens.
pub(crate) struct TrustedKey {
    pub(crate) kid: Option<String>,
    pub(crate) key: DecodingKey,
    pub(crate) rules: Validation,
}

impl TrustedKey {
    pub(crate) fn is_named(&self, kid: &str) -> bool {
        self.kid.as_deref() == Some(kid)
    }
}
