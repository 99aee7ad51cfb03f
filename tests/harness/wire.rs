//! A wire between a client and a registry, on which one can see what the client asks for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Passes every byte on, and keeps those that clients send.
pub(crate) struct Wire {
    address: SocketAddr,
    /// What was sent, one connection after the other.
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Wire {
    pub(super) async fn to(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let sent = Arc::clone(&sent);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass_on(client, registry, Arc::clone(&sent)));
                }
            }
        });
        Self { address, sent, task }
    }

    /// `HOST:PORT` of the client's end.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Which ranges were asked for, in every request so far.
    pub(crate) fn ranges(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = sent.iter().map(|bytes| String::from_utf8_lossy(bytes));
        texts
            .flat_map(|text| {
                let lines = text.lines().filter_map(|line| line.split_once(": "));
                let ranges = lines.filter(|(name, _)| name.eq_ignore_ascii_case("range"));
                ranges.map(|(_, range)| range.to_owned()).collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection until either side ends it: a wire that is cut is cut at both ends.
async fn pass_on(client: TcpStream, registry: SocketAddr, sent: Arc<Mutex<Vec<Vec<u8>>>>) {
    let Ok(server) = TcpStream::connect(registry).await else { return };
    let number = {
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(Vec::new());
        sent.len() - 1
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let requests = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            sent.lock().unwrap_or_else(PoisonError::into_inner)[number].extend_from_slice(&buffer[..length]);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}
