use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf::config::{ClientCertificates, Tls, TlsVersion};
use wharf::server::Peer;

use super::{Running, ask, on_any_port};
use crate::harness::Authority;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Puts a new pair into a folder, as what a listener is to use.
pub(crate) fn settings_in(authority: &Authority, folder: &Path) -> Tls {
    let (certificate, key) = authority.issue();
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    Tls {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        clients: ClientCertificates::NotAsked,
        minimum_version: TlsVersion::Tls12,
        cipher_suites: Vec::new(),
    }
}

async fn connect(server: &Running, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(client));
    connector.connect("localhost".try_into().unwrap(), server.connect().await).await
}

fn routes() -> Router {
    let about = |Extension(peer): Extension<Arc<Peer>>| async move {
        format!("encrypted: {}, certificates: {}", peer.encrypted, peer.certificates.len())
    };
    Router::new().route("/", get(about))
}

#[tokio::test]
async fn a_client_speaks_either_version_and_no_older_one_than_allowed() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut settings = settings_in(&authority, folder.path());
    let server = Running::start(on_any_port(Some(settings.clone())), routes()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = connect(&server, authority.client(version, None)).await.unwrap();
        assert!(ask(&mut client, REQUEST).await.ends_with("encrypted: true, certificates: 0"));
    }
    settings.minimum_version = TlsVersion::Tls13;
    let strict = Running::start(on_any_port(Some(settings)), routes()).await;
    assert!(connect(&strict, authority.client(&rustls::version::TLS12, None)).await.is_err());
    assert!(connect(&strict, authority.client(&rustls::version::TLS13, None)).await.is_ok());
}

#[tokio::test]
async fn only_the_suites_that_are_configured_are_offered_in_tls_1_2() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut settings = settings_in(&authority, folder.path());
    let suite = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    settings.cipher_suites = vec![suite];
    let server = Running::start(on_any_port(Some(settings)), routes()).await;
    let client = connect(&server, authority.client(&rustls::version::TLS12, None)).await.unwrap();
    assert_eq!(client.get_ref().1.negotiated_cipher_suite().unwrap().suite(), suite);
}

#[tokio::test]
async fn a_client_certificate_is_verified_and_told_to_the_routes() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let version = &rustls::version::TLS13;
    let path = authority.write_to(folder.path());
    let mut settings = settings_in(&authority, folder.path());
    settings.clients = ClientCertificates::Optional(vec![path.clone()]);
    let server = Running::start(on_any_port(Some(settings.clone())), routes()).await;
    let mut anonymous = connect(&server, authority.client(version, None)).await.unwrap();
    assert!(ask(&mut anonymous, REQUEST).await.ends_with("certificates: 0"));
    let mut known = connect(&server, authority.client(version, Some(authority.issue()))).await.unwrap();
    assert!(ask(&mut known, REQUEST).await.ends_with("certificates: 1"));

    settings.clients = ClientCertificates::Required(vec![path]);
    let server = Running::start(on_any_port(Some(settings)), routes()).await;
    let mut known = connect(&server, authority.client(version, Some(authority.issue()))).await.unwrap();
    assert!(ask(&mut known, REQUEST).await.ends_with("certificates: 1"));
    for stranger in [None, Some(Authority::new().issue())] {
        // In TLS 1.3 the client learns of it after its own part of the handshake.
        if let Ok(mut stream) = connect(&server, authority.client(version, stranger)).await {
            let _ = stream.write_all(REQUEST.as_bytes()).await;
            assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        }
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_new_connections_and_cuts_no_old_one() {
    // As Kubernetes mounts a secret: the files are symlinks through `..data`, and the renewal swaps that one.
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    for version in ["first", "second"] {
        std::fs::create_dir(folder.join(version)).unwrap();
        settings_in(&authority, &folder.join(version));
    }
    let link = |version: &str| {
        std::os::unix::fs::symlink(version, folder.join("..new")).unwrap();
        std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    };
    link("first");
    let mut settings = settings_in(&authority, &folder.join("first"));
    settings.certificate = folder.join("..data/tls.crt");
    settings.key = folder.join("..data/tls.key");
    let server = Running::start(on_any_port(Some(settings)), routes()).await;
    let client = || authority.client(&rustls::version::TLS13, None);
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();

    let mut old = connect(&server, client()).await.unwrap();
    link("second");
    let renewed = CertificateDer::from_pem_file(folder.join("second/tls.crt")).unwrap();
    assert_ne!(shown(&old), renewed);
    let mut new = loop {
        let stream = connect(&server, client()).await.unwrap();
        if shown(&stream) == renewed {
            break stream;
        }
    };
    for stream in [&mut old, &mut new] {
        assert!(ask(stream, REQUEST).await.ends_with("certificates: 0"));
    }
}

#[tokio::test]
async fn a_handshake_that_nobody_finishes_is_in_nobodys_way() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let server = Running::start(on_any_port(Some(settings_in(&authority, folder.path()))), routes()).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(server.connect().await);
    }
    let mut client = connect(&server, authority.client(&rustls::version::TLS13, None)).await.unwrap();
    assert!(ask(&mut client, REQUEST).await.ends_with("certificates: 0"));
}
