//! The server below the routes, with routes of the tests' own: TLS, HTTP/2, request ids, and how it stops.

mod descriptors;
mod http2;
mod listeners;
mod requests;
mod stop;
pub(crate) mod tls;

use std::net::SocketAddr;

use axum::Router;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wharf::config::{Address, Http, Listener, Tls};
use wharf::metrics::Metrics;
use wharf::server::{Server, Workers};

/// A server that runs until it is told to stop.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(http: Http, router: Router) -> Self {
        let server = Server::bind(&http, Metrics::default(), Workers::start().unwrap()).await.unwrap();
        let url = server.urls().remove(0);
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            server.serve(router, stopped).await;
        });
        Self { address, stop, done }
    }

    /// Stops it, and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.done.await.unwrap();
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Listens on a port of the system's choice.
pub(crate) fn on_any_port(tls: Option<Tls>) -> Http {
    let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
    Http { listeners: vec![Listener { address, tls }], ..Http::default() }
}

/// Sends a request and reads its answer, head and body, which must have a `content-length`.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(answer.clone()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8(body).unwrap()
}
