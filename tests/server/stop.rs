use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Running, ask, on_any_port, read_answer};

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

/// `/slow` answers when the gate has a permit; `/upload` when the body is complete.
fn routes(gate: &Arc<Semaphore>, entered: &Arc<Semaphore>) -> Router {
    let (gate, entered) = (Arc::clone(gate), Arc::clone(entered));
    let slow = move || async move {
        entered.add_permits(1);
        gate.acquire().await.unwrap().forget();
        // Where the server stopped before the gate opened, its connection knows from here on.
        tokio::task::yield_now().await;
        "finished"
    };
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/slow", get(slow))
        .route("/upload", post(|body: String| async { body }))
}

#[tokio::test]
async fn what_is_under_way_is_finished_and_idle_connections_are_closed() {
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let server = Running::start(on_any_port(None), routes(&gate, &entered)).await;
    let mut idle = server.connect().await;
    ask(&mut idle, HELLO).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    entered.acquire().await.unwrap().forget();

    server.stop.send(()).unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "the idle connection is closed");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody is let in any more");
    assert!(!server.done.is_finished());
    gate.add_permits(1);
    let answer = read_answer(&mut busy).await;
    assert!(answer.ends_with("finished") && answer.contains("connection: close"), "{answer}");
    server.done.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut http = on_any_port(None);
    http.drain_timeout = Duration::from_millis(50);
    let server = Running::start(http, routes(&gate, &entered)).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    entered.acquire().await.unwrap().forget();
    server.stop.send(()).unwrap();
    server.done.await.unwrap();
    let mut rest = Vec::new();
    let _ = busy.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "no half an answer is sent");
}

#[tokio::test]
async fn a_client_whose_body_in_chunks_was_read_is_not_waited_for() {
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let server = Running::start(on_any_port(None), routes(&gate, &entered)).await;
    let mut client = server.connect().await;
    let chunked = "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nall\r\n0\r\n\r\n";
    assert!(ask(&mut client, chunked).await.ends_with("all"));
    server.stop.send(()).unwrap();
    // For one who may still be sending it would be five seconds.
    tokio::time::timeout(Duration::from_secs(3), server.done).await.expect("it is gone").unwrap();
}
