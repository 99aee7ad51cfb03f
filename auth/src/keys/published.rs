//! Keys that an issuer publishes for everybody, at a URL that is configured or that the issuer itself names
//! (OpenID Connect Discovery 1.0 §4). Neither comes from a token, and both are fetched by https alone.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Scheme;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::fetched::{BoxError, FetchKeys};
use crate::files::{FileError, Files, Watched};

/// The longest document that is read.
const MAX_BYTES: usize = 1 << 20;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Fetches keys by https. It goes where it is sent by no answer but the issuer's document.
pub struct PublishedKeys {
    place: Place,
    /// One that trusts those whom the file of authorities names now.
    client: Watched<HttpsClient>,
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
    #[error(transparent)]
    Authorities(#[from] FileError),
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
    /// authority in the file `authorities`, which is read again when it changes, or, without one, by one that the machine trusts.
    /// It blocks.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub fn new(
        issuer: &str,
        at: Option<Uri>,
        authorities: Option<&Path>,
        files: &Files,
    ) -> Result<Self, PublishedKeysError> {
        let client = match authorities {
            Some(path) => files.watch(path, trusting)?,
            None => {
                let trust = ClientConfig::builder().with_native_roots();
                let trust = trust.map_err(PublishedKeysError::NoAuthorities)?;
                Watched::fixed(client(trust.with_no_client_auth()))
            }
        };
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

    async fn get(&self, uri: Uri) -> Result<Vec<u8>, BoxError> {
        let place = uri.to_string();
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(PublishedKeysError::Insecure(place).into());
        }
        let answer = self.client.current().get(uri).await?;
        if answer.status() != StatusCode::OK {
            return Err(PublishedKeysError::Status { place, status: answer.status() }.into());
        }
        let (mut body, mut read) = (Limited::new(answer.into_body(), MAX_BYTES), Vec::new());
        // Copied: each piece would keep the whole buffer that the connection read it into.
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(read)
    }
}

/// A client that trusts these authorities, PEM, and nobody else.
fn trusting(authorities: &[u8]) -> Result<HttpsClient, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("it has no `CERTIFICATE` in PEM".to_owned());
    }
    Ok(client(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

fn client(trust: ClientConfig) -> HttpsClient {
    let connector = HttpsConnectorBuilder::new().with_tls_config(trust).https_only().enable_http1().build();
    Client::builder(TokioExecutor::new()).build(connector)
}

#[async_trait]
impl FetchKeys for PublishedKeys {
    async fn fetch(&self) -> Result<Vec<u8>, BoxError> {
        let place = self.place().await?;
        self.get(place).await
    }
}

impl fmt::Debug for PublishedKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("PublishedKeys").field(&self.place).finish()
    }
}

#[cfg(test)]
mod tests;
