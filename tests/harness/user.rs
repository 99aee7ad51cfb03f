//! People who talk to the registry themselves: they push, pull and hang up, and know the HTTP so that a story need not.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header, http::HeaderMap};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;
use storage::Digest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Image, Layer, secrets};

/// What clients accept: every kind of manifest.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Someone at the registry. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct User {
    name: String,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

/// What bytes go through, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What the registry answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    request: String,
}

/// An upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Where its next bytes go, as the latest answer said.
    location: Mutex<String>,
}

impl User {
    /// Someone at the registry that listens on `address`.
    pub(crate) fn new(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, tls: None }
    }

    /// The same, by TLS, and with the certificate that `client` has, if it has one.
    pub(crate) fn by_tls(self, client: ClientConfig) -> Self {
        Self { tls: Some(Arc::new(client)), ..self }
    }

    /// The same, by TLS, and knowing the registry by its `certificate`.
    pub(crate) fn trusting(self, certificate: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        self.by_tls(client.unwrap().with_root_certificates(roots).with_no_client_auth())
    }

    /// Sends one request and waits for the whole answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let answer = self.try_ask(&method, path, headers, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends one request to a registry that may go away at any time.
    pub(crate) async fn try_ask(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::USER_AGENT, format!("wharf-tests ({})", self.name));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("the test writes a request that can be sent");
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let connection = async {
            let _ = connection.await; // What goes wrong with it, the exchange reports.
            std::future::pending().await
        };
        let (head, body) = tokio::select! {
            result = exchange => result?,
            () = connection => unreachable!("it waits for ever"),
        };
        if let Some(token) =
            serde_json::from_slice(&body).ok().as_ref().and_then(|body: &Value| body["token"].as_str())
        {
            secrets::keep(token);
        }
        Ok(Answer { status: head.status, headers: head.headers, body, request: format!("{method} {path}") })
    }

    /// Opens a connection, by TLS if need be, for something that no program would say.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let connection = TcpStream::connect(self.address).await?;
        Ok(match &self.tls {
            None => Box::new(connection),
            Some(client) => {
                let name = self.address.ip().into();
                Box::new(TlsConnector::from(Arc::clone(client)).connect(name, connection).await?)
            }
        })
    }

    /// Asks for something that needs no body.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Bytes::new()).await
    }

    /// What the registry tells in numbers, if it was told to.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await.expect(StatusCode::OK);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    /// Asks whether something is there.
    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.ask(Method::HEAD, path, &[], Bytes::new()).await
    }

    /// Asks that something be gone.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// Pushes an image under a tag: its layers, its config, its manifest.
    pub(crate) async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for layer in &image.layers {
            self.push_blob(repository, layer.bytes()).await;
        }
        self.push_blob(repository, image.config.clone()).await;
        let path = format!("/v2/{repository}/manifests/{tag}");
        let content_type = [("content-type", Image::MEDIA_TYPE)];
        self.ask(Method::PUT, &path, &content_type, image.manifest.clone()).await.expect(StatusCode::CREATED);
    }

    /// Pushes an image to a registry that may go away at any time, and tells whether all of it was acknowledged.
    pub(crate) async fn try_push(&self, repository: &str, tag: &str, image: &Image) -> bool {
        let blobs = image.layers.iter().map(Layer::bytes).chain([image.config.clone()]);
        let octets = [("content-type", "application/octet-stream")];
        for blob in blobs {
            let digest = Digest::of(storage::Algorithm::Sha256, &blob);
            let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
            match self.try_ask(&Method::POST, &path, &octets, blob).await {
                Ok(answer) => drop(answer.expect(StatusCode::CREATED)),
                Err(_) => return false,
            }
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let content_type = [("content-type", Image::MEDIA_TYPE)];
        match self.try_ask(&Method::PUT, &path, &content_type, image.manifest.clone()).await {
            Ok(answer) => answer.expect(StatusCode::CREATED).status.is_success(),
            Err(_) => false,
        }
    }

    /// Pushes a blob with one request after the one that begins.
    pub(crate) async fn push_blob(&self, repository: &str, content: Bytes) -> Digest {
        let digest = Digest::of(storage::Algorithm::Sha256, &content);
        let upload = self.begin_upload(repository).await;
        self.finish_with(&upload, &digest, content).await.expect(StatusCode::CREATED);
        digest
    }

    /// Pulls a blob that must be there.
    pub(crate) async fn pull(&self, repository: &str, digest: Digest) -> Layer {
        let answer = self.get(&format!("/v2/{repository}/blobs/{digest}")).await.expect(StatusCode::OK);
        Layer::from_bytes(answer.body)
    }

    /// Asks for some ranges of a blob.
    pub(crate) async fn pull_range(&self, repository: &str, digest: Digest, range: &str) -> Answer {
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.ask(Method::GET, &path, &[("range", range)], Bytes::new()).await
    }

    /// Pulls an image's manifest that must be there, by tag or digest.
    pub(crate) async fn pull_manifest(&self, repository: &str, reference: &str) -> Bytes {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let accept = [("accept", MANIFEST_TYPES)];
        self.ask(Method::GET, &path, &accept, Bytes::new()).await.expect(StatusCode::OK).body
    }

    /// The names of a repository's tags.
    pub(crate) async fn tags(&self, repository: &str) -> Vec<String> {
        let answer = self.get(&format!("/v2/{repository}/tags/list")).await.expect(StatusCode::OK);
        serde_json::from_value(answer.json()["tags"].take()).expect("tags are a list of strings")
    }

    /// The names of all tags of a repository that has more than fit on a page.
    pub(crate) async fn all_tags(&self, repository: &str) -> Vec<String> {
        let mut path = format!("/v2/{repository}/tags/list?n=1000");
        let mut tags: Vec<String> = Vec::new();
        loop {
            let answer = self.get(&path).await.expect(StatusCode::OK);
            tags.extend(serde_json::from_value::<Vec<String>>(answer.json()["tags"].take()).unwrap());
            let Some(link) = answer.header("link") else { return tags };
            path = link.split(['<', '>']).nth(1).expect("a link has a target").to_owned();
        }
    }

    /// Begins an upload.
    pub(crate) async fn begin_upload(&self, repository: &str) -> Upload {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.ask(Method::POST, &path, &[], Bytes::new()).await.expect(StatusCode::ACCEPTED);
        Upload { location: Mutex::new(self.location(&answer)) }
    }

    /// Sends more bytes of a blob, without saying where they belong.
    pub(crate) async fn send(&self, upload: &Upload, bytes: Bytes) {
        let octets = [("content-type", "application/octet-stream")];
        let answer = self.ask(Method::PATCH, &upload.location(), &octets, bytes).await;
        upload.moved_to(self.location(&answer.expect(StatusCode::ACCEPTED)));
    }

    /// Announces so many bytes, sends some of them, and waits.
    pub(crate) async fn send_of(&self, announced: usize, upload: &Upload, bytes: Bytes) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.expect("the registry takes connections");
        let head = format!(
            "PATCH {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            upload.location(),
            self.address,
            announced,
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&bytes).await.unwrap();
        connection
    }

    /// Announces one byte more than it sends, and goes away.
    pub(crate) async fn send_then_hang_up(&self, upload: &Upload, bytes: Bytes) {
        let mut connection = self.send_of(bytes.len() + 1, upload, bytes).await;
        // What was sent arrives; then the connection ends in the middle of the body, and the registry closes its side
        // once it has dealt with that.
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await; // It may as well be reset.
    }

    /// Where an upload may be resumed: how many bytes are kept.
    pub(crate) async fn upload_end(&self, upload: &Upload) -> usize {
        let answer = self.get(&upload.location()).await.expect(StatusCode::NO_CONTENT);
        upload.moved_to(self.location(&answer));
        let range = answer.header("range").expect("the status of an upload has a range");
        let end = range.strip_prefix("0-").and_then(|end| end.parse::<usize>().ok());
        // `0-0` is an empty upload, as distribution has it; one byte is never kept in these stories.
        match end.unwrap_or_else(|| panic!("{range} is not a range of an upload")) {
            0 => 0,
            end => end + 1,
        }
    }

    /// Ends an upload whose bytes have all been sent.
    pub(crate) async fn finish(&self, upload: &Upload, digest: Digest) -> Answer {
        self.finish_with(upload, &digest, Bytes::new()).await
    }

    /// Ends an upload with its last bytes.
    pub(crate) async fn finish_with(&self, upload: &Upload, digest: &Digest, rest: Bytes) -> Answer {
        let location = upload.location();
        let separator = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{separator}digest={digest}");
        self.ask(Method::PUT, &path, &[("content-type", "application/octet-stream")], rest).await
    }

    /// The path of a location, which may be written with the host or without.
    fn location(&self, answer: &Answer) -> String {
        let location = answer.header("location").expect("an upload has a location");
        location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(location).to_owned()
    }
}

impl Upload {
    pub(crate) fn location(&self) -> String {
        self.location.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its folder is called.
    pub(crate) fn id(&self) -> String {
        let location = self.location();
        let path = location.split('?').next().unwrap();
        path.rsplit('/').next().unwrap().to_owned()
    }

    fn moved_to(&self, location: String) {
        *self.location.lock().unwrap_or_else(PoisonError::into_inner) = location;
    }
}

impl Answer {
    /// Returns the answer, if it is that one.
    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(2000)]);
        assert_eq!(self.status, status, "{}: {body}", self.request);
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.request))
    }
}
