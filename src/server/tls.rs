//! TLS by rustls. Certificates, keys and authorities are read again when their files change, also by the swap of a
//! symlink, which is how Kubernetes renews a mounted secret; connections that are open keep what they began with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, SupportedCipherSuite};

use crate::config::{ClientCertificates, Tls, TlsVersion};

/// Why TLS cannot be had as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not made of PEM, or has nothing in it that is needed.
    #[error("{} has no {needed} in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        needed: &'static str,
    },
    /// An authority's certificate is not one.
    #[error("{} is not the certificate of an authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The authorities for clients cannot be used.
    #[error("client certificates cannot be verified")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// Certificate and key do not go together, or something else that rustls refuses.
    #[error("{} and {} cannot be used", certificate.display(), key.display())]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The TLS of one listener: what new connections are to use, kept up to date.
pub(super) struct Certificates {
    settings: Tls,
    protocols: Vec<Vec<u8>>,
    /// What the files held when they were last looked at.
    seen: Mutex<Files>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Certificates {
    /// Reads the files. `protocols` are those offered by ALPN, the best one first.
    pub(super) fn load(settings: &Tls, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let files = Files::read(settings)?;
        let current = RwLock::new(Arc::new(files.server_config(settings, &protocols)?));
        Ok(Self { settings: settings.clone(), protocols, seen: Mutex::new(files), current })
    }

    /// What a connection that begins now is to use.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files once, and uses what is new in them if it can be used. Each change is tried once: while a bad one
    /// lasts, the log says so once and the last good one is used. Blocks.
    pub(super) fn use_if_new(&self) {
        let certificate = self.settings.certificate.display();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match Files::read(&self.settings) {
            Ok(found) => found,
            Err(error) => {
                // Files that are being replaced may be gone for a moment.
                tracing::debug!(%certificate, error = &error as &dyn std::error::Error, "certificate not read");
                return;
            }
        };
        if found == *seen {
            return;
        }
        match found.server_config(&self.settings, &self.protocols) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(%certificate, "certificate reloaded");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%certificate, error, "changed certificate cannot be used: the old one stays");
            }
        }
        *seen = found;
    }
}

/// The contents of all files that a listener's TLS is made of.
#[derive(Eq, PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<(PathBuf, Vec<u8>)>,
}

impl Files {
    fn read(settings: &Tls) -> Result<Self, TlsError> {
        let authorities = match &settings.clients {
            ClientCertificates::NotAsked => &[],
            ClientCertificates::Optional(paths) | ClientCertificates::Required(paths) => paths.as_slice(),
        };
        let authorities = authorities.iter().map(|path| Ok((path.clone(), read(path)?)));
        Ok(Self {
            certificate: read(&settings.certificate)?,
            key: read(&settings.key)?,
            authorities: authorities.collect::<Result<_, TlsError>>()?,
        })
    }

    fn server_config(&self, settings: &Tls, protocols: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
        let refused = |source| TlsError::Refused {
            certificate: settings.certificate.clone(),
            key: settings.key.clone(),
            source,
        };
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if !settings.cipher_suites.is_empty() {
            provider.cipher_suites.retain(|suite| match suite {
                SupportedCipherSuite::Tls12(_) => settings.cipher_suites.contains(&suite.suite()),
                SupportedCipherSuite::Tls13(_) => true,
            });
        }
        let provider = Arc::new(provider);
        let versions: &[&rustls::SupportedProtocolVersion] = match settings.minimum_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(refused)?;
        let verifier = || {
            let authorities = Arc::new(self.authorities()?);
            Ok::<_, TlsError>(WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider)))
        };
        let builder = match settings.clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            ClientCertificates::Optional(_) => {
                let verifier = verifier()?.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(TlsError::Verifier)?)
            }
            ClientCertificates::Required(_) => {
                builder.with_client_cert_verifier(verifier()?.build().map_err(TlsError::Verifier)?)
            }
        };
        let chain = certificates(&settings.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::NotPem { path: settings.key.clone(), needed: "private key" })?;
        let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
        config.alpn_protocols = protocols.to_vec();
        Ok(config)
    }

    fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        for (path, contents) in &self.authorities {
            for certificate in certificates(path, contents)? {
                store
                    .add(certificate)
                    .map_err(|source| TlsError::Authority { path: path.clone(), source })?;
            }
        }
        Ok(store)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn certificates(path: &Path, contents: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = || TlsError::NotPem { path: path.to_owned(), needed: "certificate" };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(contents).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(not_pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(folder: &Path) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("tls.crt"), pair.cert.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).unwrap();
        pair
    }

    #[test]
    fn a_changed_pair_that_cannot_be_used_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        write_pair(folder.path());
        let settings = Tls {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            clients: ClientCertificates::NotAsked,
            minimum_version: TlsVersion::Tls12,
            cipher_suites: Vec::new(),
        };
        let certificates = Certificates::load(&settings, &[]).map_err(|error| error.to_string()).unwrap();
        let first = certificates.current();

        // The key of another certificate; then no key at all.
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&settings.key, other.signing_key.serialize_pem()).unwrap();
        certificates.use_if_new();
        assert!(Arc::ptr_eq(&first, &certificates.current()));
        std::fs::write(&settings.key, "").unwrap();
        certificates.use_if_new();
        assert!(Arc::ptr_eq(&first, &certificates.current()));

        write_pair(folder.path());
        certificates.use_if_new();
        assert!(!Arc::ptr_eq(&first, &certificates.current()));
    }
}
