//! What `rediss://` trusts and shows.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use apix::{Error, Result};

use crate::error::wrong_setting;
use crate::options::TlsOptions;

/// A connector that trusts the given authority, or the system's, and shows the given certificate.
pub(crate) fn connector(options: &TlsOptions) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots(options)?);
    let config = match (&options.cert_file, &options.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key_der =
                PrivateKeyDer::from_pem_file(key).map_err(|fault| unreadable(key, fault))?;
            builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(unusable)?
        }
        _ => return Err(wrong_setting("a client certificate needs both cert_file and key_file")),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(options: &TlsOptions) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &options.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|fault| unreadable(path, fault))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(wrong_setting(
            "no certificate authority to trust was found; name one by ca_file",
        ));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|fault| unreadable(path, fault))
}

fn unreadable(path: &Path, fault: impl std::fmt::Display) -> Error {
    wrong_setting(format!("{} cannot be used for TLS", path.display()))
        .with_source(fault.to_string())
}

fn unusable(fault: rustls::Error) -> Error {
    wrong_setting("the TLS settings cannot be used").with_source(fault)
}
