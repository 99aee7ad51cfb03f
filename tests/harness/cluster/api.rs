//! The API server, asked without a program between.

use std::{error::Error, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

use crate::harness::secrets;

/// The API server, as it is met with a token. Connections are kept, so it is for the test alone that made it.
pub(crate) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: SocketAddr,
    authorization: String,
}

impl Api {
    pub(super) fn new(address: SocketAddr, authority: &str, token: &str) -> Self {
        let mut authorities = RootCertStore::empty();
        authorities.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, address, authorization: format!("Bearer {token}") }
    }

    /// Asks for something that is there.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await
    }

    /// Makes something, and returns what it became. If that is a token, it is kept as a secret.
    pub(crate) async fn post(&self, path: &str, what: &Value) -> Value {
        let made = self.ask(Method::POST, path, Some(what)).await;
        if let Some(token) = made["status"]["token"].as_str() {
            secrets::keep(token);
        }
        made
    }

    /// Removes something.
    pub(crate) async fn delete(&self, path: &str) {
        self.ask(Method::DELETE, path, None).await;
    }

    async fn ask(&self, method: Method, path: &str, what: Option<&Value>) -> Value {
        let asked = format!("{method} {path}");
        let answer = self.try_to(method, path, what).await;
        let (status, body) = answer.unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert!(status.is_success(), "{asked}: {status}\n{body}");
        body
    }

    /// Asks an API server that may be away, or may not be willing. What it answers in plain words is a string.
    pub(crate) async fn try_to(
        &self,
        method: Method,
        path: &str,
        what: Option<&Value>,
    ) -> Result<(StatusCode, Value), Box<dyn Error + Send + Sync>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(what.map(Value::to_string).unwrap_or_default().into())?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let plain = || Value::String(String::from_utf8_lossy(&body).into_owned());
        Ok((head.status, serde_json::from_slice(&body).unwrap_or_else(|_| plain())))
    }
}
