use axum::Router;
use axum::routing::get;

use super::{Running, ask, on_any_port};

#[tokio::test]
async fn a_request_keeps_the_id_it_came_with() {
    let server = Running::start(on_any_port(None), Router::new().route("/", get(|| async { "hello" }))).await;
    let mut client = server.connect().await;
    let answer = ask(&mut client, "GET / HTTP/1.1\r\nhost: x\r\nx-request-id: build-17\r\n\r\n").await;
    assert!(answer.contains("x-request-id: build-17\r\n"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn what_somebody_shows_is_in_no_debug_output() {
    let shown = get(|request: axum::extract::Request| async move { format!("{request:?}") });
    let server = Running::start(on_any_port(None), Router::new().route("/", shown)).await;
    let mut client = server.connect().await;
    let answer = ask(
        &mut client,
        "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    )
    .await;
    assert!(answer.contains("authorization") && !answer.contains("Bearer"), "{answer}");
}

#[tokio::test]
async fn a_failed_request_gets_an_id_and_a_wild_one_is_not_repeated() {
    let server = Running::start(on_any_port(None), Router::new()).await;
    let mut client = server.connect().await;
    let request = "GET /none HTTP/1.1\r\nhost: x\r\nx-request-id: <script>\r\n\r\n";
    let (first, second) = (ask(&mut client, request).await, ask(&mut client, request).await);
    let id = |answer: &str| {
        answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("it has an id").to_owned()
    };
    assert!(!first.contains("script"), "{first}");
    assert_ne!(id(&first), id(&second));
}
