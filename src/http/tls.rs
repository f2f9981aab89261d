//! TLS of the ingest listener: certificate and key from files, reloaded without a restart.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::TlsFiles;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct UnixSeconds(pub i64);

/// Certificate and key for new connections.
#[derive(Debug)]
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificate {
    /// Reads certificate chain and key. Returns the certificate's expiry, too.
    ///
    /// # Errors
    /// A sentence that names the file, never its content.
    pub fn read(files: &TlsFiles) -> Result<(Arc<Self>, UnixSeconds), String> {
        let (key, expiry) = load(files)?;
        let certificate = Self {
            current: ArcSwap::from_pointee(key),
        };
        Ok((Arc::new(certificate), expiry))
    }

    /// Reads the files again. If that fails, the current certificate stays.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub fn reload(&self, files: &TlsFiles) -> Result<UnixSeconds, String> {
        let (key, expiry) = load(files)?;
        self.current.store(Arc::new(key));
        Ok(expiry)
    }

    /// Returns the server configuration: TLS 1.2 and 1.3, no client certificates.
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>)
    }
}

fn load(files: &TlsFiles) -> Result<(CertifiedKey, UnixSeconds), String> {
    let cert_file = files.cert_file.display();
    let key_file = files.key_file.display();
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert_file)
        .and_then(Iterator::collect)
        .map_err(|e| format!("http.tls.cert_file {cert_file}: {e}"))?;
    let leaf = chain.first().ok_or_else(|| {
        format!("http.tls.cert_file {cert_file} contains no PEM certificate (-----BEGIN CERTIFICATE-----)")
    })?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|e| format!("http.tls.cert_file {cert_file}: {e}"))?;
    let expiry = UnixSeconds(parsed.validity().not_after.timestamp());
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|_| format!("http.tls.key_file {key_file} contains no PEM private key"))?;
    let key = any_supported_type(&key)
        .map_err(|_| format!("http.tls.key_file {key_file}: this key type is not supported"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| {
        format!("http.tls: the key in {key_file} does not match the certificate in {cert_file}")
    })?;
    Ok((certified, expiry))
}
