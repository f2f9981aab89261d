//! Whom the sender trusts behind `https`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The system's certificates, read once. Without any, every handshake fails and says so.
pub(super) fn system_roots() -> Arc<ClientConfig> {
    static ROOTS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        client_config(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}

/// The certificates of a PEM file, and no others.
///
/// # Errors
/// A sentence that names the file.
pub fn load_roots(file: &Path) -> Result<Arc<ClientConfig>, String> {
    let shown = file.display();
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|e| format!("{shown} cannot be read: {e}"))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| format!("{shown}: {e}"))?;
        roots
            .add(certificate)
            .map_err(|e| format!("{shown}: {e}"))?;
    }
    match roots.is_empty() {
        true => Err(format!(
            "{shown} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        )),
        false => Ok(client_config(roots)),
    }
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
        assert!(problem.contains("holds no certificate"), "{problem}");
        let problem = load_roots(Path::new("/nowhere.pem")).unwrap_err();
        assert!(
            problem.starts_with("/nowhere.pem cannot be read"),
            "{problem}"
        );
    }
}
