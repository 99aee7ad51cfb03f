//! Keys that an issuer publishes for everybody, at a URL that is configured or that the issuer itself names
//! (OpenID Connect Discovery 1.0 §4). Neither comes from a token, and both are fetched by https alone.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Scheme;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::fetched::{BoxError, FetchKeys};

/// The longest document that is read.
const MAX_BYTES: usize = 1 << 20;

/// Fetches keys by https.
pub struct PublishedKeys {
    place: Place,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Where they are.
#[derive(Debug)]
enum Place {
    At(Uri),
    /// Where the issuer of this name says.
    SaidBy(String),
}

/// Why keys cannot be fetched, now or ever.
#[derive(Debug, thiserror::Error)]
pub enum PublishedKeysError {
    /// The file of authorities cannot be used.
    #[error("cannot use the authorities in {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BoxError,
    },
    /// The machine has no authorities of its own.
    #[error("this machine trusts no authorities; name a file of them")]
    NoAuthorities(#[source] std::io::Error),
    /// Something else than https is meant.
    #[error("{0} is not fetched by https")]
    Insecure(String),
    /// The answer is another status than 200.
    #[error("{place} answers {status}")]
    Status {
        /// What was asked.
        place: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The issuer's document is about another issuer.
    #[error("{0} says that it is somebody else")]
    OtherIssuer(String),
}

impl PublishedKeys {
    /// Keys at the URL `at` or, without one, where `issuer` says that they are. Whoever serves them has a certificate signed by an
    /// authority in the file `authorities` or, without one, by one that the machine trusts. It blocks.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub fn new(
        issuer: &str,
        at: Option<Uri>,
        authorities: Option<&Path>,
    ) -> Result<Self, PublishedKeysError> {
        let connector = HttpsConnectorBuilder::new();
        let connector = match authorities {
            Some(path) => connector.with_tls_config(trusting(path)?),
            None => connector.with_native_roots().map_err(PublishedKeysError::NoAuthorities)?,
        };
        let connector = connector.https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let place = at.map_or_else(|| Place::SaidBy(issuer.to_owned()), Place::At);
        Ok(Self { place, client })
    }

    /// Where the keys are.
    async fn place(&self) -> Result<Uri, BoxError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let issuer = match &self.place {
            Place::At(uri) => return Ok(uri.clone()),
            Place::SaidBy(issuer) => issuer,
        };
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document: Discovery = serde_json::from_slice(&self.get(place.parse()?).await?)?;
        if document.issuer != *issuer {
            return Err(PublishedKeysError::OtherIssuer(place).into());
        }
        Ok(document.jwks_uri.parse()?)
    }

    async fn get(&self, uri: Uri) -> Result<Bytes, BoxError> {
        let place = uri.to_string();
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(PublishedKeysError::Insecure(place).into());
        }
        let answer = self.client.get(uri).await?;
        if answer.status() != StatusCode::OK {
            return Err(PublishedKeysError::Status { place, status: answer.status() }.into());
        }
        Ok(Limited::new(answer.into_body(), MAX_BYTES).collect().await?.to_bytes())
    }
}

fn trusting(path: &Path) -> Result<ClientConfig, PublishedKeysError> {
    let wrong = |source: BoxError| PublishedKeysError::Authorities { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.into()))? {
        let certificate = certificate.map_err(|error| wrong(error.into()))?;
        roots.add(certificate).map_err(|error| wrong(error.into()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl FetchKeys for PublishedKeys {
    async fn fetch(&self) -> Result<Vec<u8>, BoxError> {
        let place = self.place().await?;
        Ok(self.get(place).await?.to_vec())
    }
}

impl fmt::Debug for PublishedKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("PublishedKeys").field(&self.place).finish()
    }
}
