//! Trusted certificates for `https`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The system's certificates, read once. Without any, every handshake fails with an error that says
/// so.
pub(super) fn system_roots() -> Arc<ClientConfig> {
    static ROOTS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        client_config(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}

/// Trusts the certificates of a PEM file, and no others.
///
/// # Errors
/// A message that names the file.
pub fn load_roots(file: &Path) -> Result<Arc<ClientConfig>, String> {
    let path = file.display();
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|e| format!("{path} cannot be read: {e}"))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| format!("{path}: {e}"))?;
        roots.add(certificate).map_err(|e| format!("{path}: {e}"))?;
    }
    if roots.is_empty() {
        return Err(format!(
            "{path} contains no PEM certificate (-----BEGIN CERTIFICATE-----)"
        ));
    }
    Ok(client_config(roots))
}

fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let problem = load_roots(file.path()).unwrap_err();
        assert!(problem.contains("contains no PEM certificate"), "{problem}");
        let problem = load_roots(Path::new("/nowhere.pem")).unwrap_err();
        assert!(
            problem.starts_with("/nowhere.pem cannot be read"),
            "{problem}"
        );
    }
}
