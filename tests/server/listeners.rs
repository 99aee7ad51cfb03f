use std::os::unix::net::UnixListener;

use axum::Router;
use axum::routing::get;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use wharf::config::Address;
use wharf::metrics::Metrics;
use wharf::server::{Server, Workers};

use super::{Running, ask, on_any_port};

#[tokio::test]
async fn an_ipv6_address_and_every_interface_can_be_listened_on() {
    for address in [Address::EveryInterface { port: 0 }, Address::Tcp { host: "::1".to_owned(), port: 0 }] {
        let mut http = on_any_port(None);
        http.listeners[0].address = address;
        let server = Running::start(http, Router::new().route("/", get(|| async { "hello" }))).await;
        let host = if server.address.ip().is_unspecified() { "127.0.0.1" } else { "::1" };
        let mut client = tokio::net::TcpStream::connect((host, server.address.port())).await.unwrap();
        assert!(ask(&mut client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("hello"));
    }
}

#[tokio::test]
async fn a_unix_socket_is_listened_on_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wharf.sock");
    // What a server that was killed left behind is in nobody's way.
    drop(UnixListener::bind(&path).unwrap());
    let mut http = on_any_port(None);
    http.listeners[0].address = Address::Unix(path.clone());
    let server = Server::bind(&http, Metrics::default(), Workers::start().unwrap()).await.unwrap();
    assert_eq!(server.urls(), [format!("unix:{}", path.display())]);
    assert!(
        Server::bind(&http, Metrics::default(), Workers::start().unwrap()).await.is_err(),
        "a living server keeps its socket"
    );
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let done = tokio::spawn(server.serve(Router::new().route("/", get(|| async { "hello" })), stopped));

    let mut client = UnixStream::connect(&path).await.unwrap();
    assert!(ask(&mut client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("hello"));
    stop.send(()).unwrap();
    done.await.unwrap();
    assert!(!path.exists());
}
