use std::convert::Infallible;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode, Version};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use wharf::server::{FileBody, SendfileQueue};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Running, ask, on_any_port};

#[tokio::test]
async fn without_tls_http2_and_http1_share_a_port_where_it_is_allowed() {
    let content: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let (file, length) = (Arc::new(file), content.len() as u64);
    let serve_file = move |request: Request<Body>| async move {
        let queue = request.extensions().get::<SendfileQueue>();
        assert!(queue.is_none(), "placeholders are for plain HTTP/1.1");
        Body::new(FileBody::new(file, 0..length, queue))
    };
    let routes = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/file", get(serve_file))
        .route("/echo", post(|body: Bytes| async { body }))
        .layer(DefaultBodyLimit::disable());
    let mut http = on_any_port(None);
    http.h2c = true;
    let server = Running::start(http, routes).await;

    let mut plain = server.connect().await;
    assert!(ask(&mut plain, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("hello"));

    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = |method: &str, path: &str, body: &[u8]| {
        let uri = format!("http://{}{path}", server.address);
        Request::builder().method(method).uri(uri).body(Full::new(Bytes::copy_from_slice(body))).unwrap()
    };
    let answer = client.send_request(request("GET", "/file", b"")).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == content);
    let answer = client.send_request(request("POST", "/echo", &content)).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == content);

    server.stop.send(()).unwrap();
    driver.await.unwrap().unwrap();
    drop(plain);
    server.done.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_holds_up_nothing() {
    let mut http = on_any_port(None);
    http.h2c = true;
    http.limits.header_timeout = Duration::from_millis(100);
    let preface = async |server: &Running| {
        let mut silent = server.connect().await;
        silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // The server says its part at once.
        silent.read_exact(&mut [0; 9]).await.unwrap();
        silent
    };
    let server = Running::start(http.clone(), Router::new()).await;
    let mut silent = preface(&server).await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest));
    closed.await.expect("it is closed").unwrap();
    server.stop().await;

    // Where there is still time for its first request, it is not given all of it when the server stops.
    http.limits.header_timeout = Duration::from_secs(3600);
    http.drain_timeout = Duration::from_secs(3600);
    let server = Running::start(http, Router::new()).await;
    let _silent = preface(&server).await;
    tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("it stops");
}

#[tokio::test]
async fn what_is_refused_before_it_is_read_has_no_body_for_those_who_asked_for_none() {
    let mut http = on_any_port(None);
    http.h2c = true;
    let server = Running::start(http, Router::new()).await;
    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driver = tokio::spawn(connection);
    for (method, has_body) in [("GET", true), ("HEAD", false)] {
        let request = Request::builder().method(method).uri(format!("http://{}/", server.address));
        // Two hosts besides the one in the target: which one is meant?
        let request = request.header("host", "a").header("host", "b").body(Empty::<Bytes>::new()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 400);
        let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((length > 0, body.len()), (true, if has_body { length } else { 0 }), "{method}");
    }
    drop(client);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_its_client_does_not_read_is_reset_and_the_others_go_on() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(32 << 20).unwrap();
    let (file, length) = (Arc::new(file), 32 << 20);
    let routes = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/file", get(move || async move { Body::new(FileBody::new(file, 0..length, None)) }));
    let mut http = on_any_port(None);
    http.h2c = true;
    http.limits.idle_body_timeout = Duration::from_millis(200);
    // One request at a time: the second has its turn when the first has been given up.
    http.limits.reads.running = NonZeroUsize::new(1);
    http.limits.reads.queued = 1;
    let server = Running::start(http, routes).await;
    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = Request::builder().uri(format!("http://{}{path}", server.address));
        client.send_request(request.body(Empty::<Bytes>::new()).unwrap())
    };

    let unread = ask("/file").await.unwrap();
    let other = ask("/hello").await.unwrap();
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert!(unread.into_body().collect().await.is_err(), "the rest does not come");
    // One that is read is not given up.
    let read = ask("/file").await.unwrap();
    assert_eq!(read.into_body().collect().await.unwrap().to_bytes().len() as u64, length);
    driver.abort();
}

#[tokio::test]
async fn a_connection_for_which_there_was_no_room_ends_with_its_answer() {
    let mut http = on_any_port(None);
    http.h2c = true;
    http.limits.connections = NonZeroUsize::MIN;
    let server = Running::start(http, Router::new().route("/hello", get(|| async { "hello" }))).await;
    let connect = async || {
        let stream = TokioIo::new(server.connect().await);
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap()
    };
    let ask = || {
        let request = Request::builder().uri(format!("http://{}/hello", server.address));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let (mut first, first_driver) = connect().await;
    let first_driver = tokio::spawn(first_driver);
    assert_eq!(first.send_request(ask()).await.unwrap().status(), 200);

    let (mut second, second_driver) = connect().await;
    let second_driver = tokio::spawn(second_driver);
    assert_eq!(second.send_request(ask()).await.unwrap().status(), 429);
    // The next request takes another connection, which finds room once the first has left.
    let ended = tokio::time::timeout(Duration::from_secs(20), second_driver).await;
    ended.expect("the connection ends").unwrap().unwrap();
    drop(first);
    first_driver.await.unwrap().unwrap();
    let status = async || {
        let (mut third, driver) = connect().await;
        let driver = tokio::spawn(driver);
        let status = third.send_request(ask()).await.unwrap().status();
        driver.abort();
        status
    };
    while status().await != 200 {}
}

#[tokio::test]
async fn a_slow_client_that_keeps_reading_gets_it_all() {
    let content: Vec<u8> = (0..80_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let (file, length) = (Arc::new(file), content.len() as u64);
    let serve_file = move || async move { Body::new(FileBody::new(file, 0..length, None)) };
    let mut http = on_any_port(None);
    http.h2c = true;
    http.limits.idle_body_timeout = Duration::from_millis(500);
    let server = Running::start(http, Router::new().route("/file", get(serve_file))).await;
    let stream = TokioIo::new(server.connect().await);
    let mut handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    handshake.initial_stream_window_size(16 * 1024).initial_connection_window_size(16 * 1024);
    let (mut client, connection) = handshake.handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::builder().uri(format!("http://{}/file", server.address));
    let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();

    // What is read from the file at once takes this client longer than a body may stand still.
    let mut pause = tokio::time::interval(Duration::from_millis(60));
    let (mut body, mut read) = (answer.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        pause.tick().await;
    }
    assert!(read == content);
    driver.abort();
}

#[tokio::test]
async fn the_rest_of_a_refused_body_is_not_waited_for_once_the_server_stops() {
    let mut http = on_any_port(None);
    http.h2c = true;
    let routes = Router::new().route("/refuse", post(|| async { StatusCode::PAYLOAD_TOO_LARGE }));
    let server = Running::start(http, routes).await;
    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let begun = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"begun")))]);
    let body = StreamBody::new(begun.chain(stream::pending()));
    let request = Request::post(format!("http://{}/refuse", server.address)).body(body).unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // While it does not stop, it waits for five seconds.
    tokio::time::timeout(Duration::from_secs(4), server.stop()).await.expect("it does not wait");
    drop(client);
    let _ = driver.await.unwrap(); // It may be told that its body was not wanted.
}
