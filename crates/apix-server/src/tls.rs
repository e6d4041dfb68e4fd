//! TLS on both sides: the client's trust, and the server's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::failure::Failure;

/// Makes ring the provider of every TLS configuration of this process.
pub(crate) fn install_provider() {
    // An error says that there is one already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Trusts the certificate authorities of the system and those in `ca`, a PEM file.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // A single unreadable certificate of the system must not keep a user from all the others.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .with_context(|| format!("{} holds no usable certificate", path.display()))?;
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The server's certificate chain and key, each a PEM file.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// What a TLS listener needs. HTTP/1.1 alone is offered: WebSocket upgrades need it.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|fault| {
            Failure::usage(format!("no private key in {}: {fault}", self.key.display()))
        })?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|fault| {
                Failure::usage(format!(
                    "{} and {} do not belong together: {fault}",
                    self.cert.display(),
                    self.key.display()
                ))
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |fault: rustls::pki_types::pem::Error| {
        Failure::usage(format!("no certificate in {}: {fault}", path.display()))
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if found.is_empty() {
        return Err(Failure::usage(format!("no certificate in {}", path.display())));
    }
    Ok(found)
}
