use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener;

use axum::Router;
use axum::routing::get;
use tokio::net::{TcpStream, UnixStream};
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
        let mut client = TcpStream::connect((host, server.address.port())).await.unwrap();
        assert!(ask(&mut client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("hello"));
    }
}

#[tokio::test]
async fn several_addresses_are_listened_on_and_share_one_limit() {
    let mut http = on_any_port(None);
    http.listeners.extend(on_any_port(None).listeners);
    http.limits.connections = NonZeroUsize::MIN;
    let server = Server::bind(&http, Metrics::default(), Workers::start().unwrap()).await.unwrap();
    let addresses = server.urls().into_iter().map(|url| url.strip_prefix("http://").unwrap().to_owned());
    let addresses: Vec<String> = addresses.collect();
    assert_eq!(addresses.len(), 2);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let done = tokio::spawn(server.serve(Router::new().route("/hello", get(|| async { "hello" })), stopped));

    const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    let connect = async |at: usize| TcpStream::connect(&addresses[at]).await.unwrap();
    let mut first = connect(0).await;
    assert!(ask(&mut first, HELLO).await.ends_with("hello"));
    assert!(ask(&mut connect(1).await, HELLO).await.starts_with("HTTP/1.1 429 "));
    drop(first);
    // Once the server has noticed.
    while !ask(&mut connect(1).await, HELLO).await.ends_with("hello") {}
    stop.send(()).unwrap();
    done.await.unwrap();
    for address in addresses {
        assert!(TcpStream::connect(address).await.is_err());
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
