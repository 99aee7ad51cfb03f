//! A response body that is part of a file, by whichever way is the fastest on the connection it goes to.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use super::page_cache;
use super::sendfile::{PLACEHOLDER_BYTES, SendfileQueue};

/// The most that is read at once where bytes must pass through this process.
const READ_BYTES: usize = 256 * 1024;

/// The least, however many bodies share the memory.
const SMALL_READ_BYTES: usize = 16 * 1024;

/// Up to here a read that needs no disk is done at once: it takes less time than handing it to another thread.
const INLINE_BYTES: usize = 64 * 1024;

/// What all bodies that are read together may hold, until each has come down to small reads.
const SHARED_BYTES: usize = 32 * 1024 * 1024;

/// How many reads are under way while the one before them is sent.
const READS_AHEAD: usize = 2;

/// Buffers kept for the next read; more than this many are given back to the system.
const SPARE_BUFFERS: usize = 32;

static SPARES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

static BODIES_READ: AtomicUsize = AtomicUsize::new(0);

/// A part of a file as a response body of exactly that length.
///
/// Given its connection's [`SendfileQueue`] it has the kernel send the file; without one it reads the file on other
/// threads, a little ahead of the client. A file that turns out shorter than promised ends the response with an error,
/// which cuts the connection: the client sees that bytes are missing. Dropping the body stops all reading.
#[derive(Debug)]
pub struct FileBody {
    file: Arc<File>,
    /// What has not been handed over yet.
    rest: Range<u64>,
    delivery: Delivery,
}

#[derive(Debug)]
enum Delivery {
    Sendfile {
        queue: SendfileQueue,
        /// Between two parts.
        turn: Option<OthersTurn>,
        /// The next part, while it is on its way into memory.
        arriving: Option<AbortOnDropHandle<()>>,
        /// Where the part ends that is known, or about, to be in memory.
        resident_until: u64,
    },
    Read {
        reads: VecDeque<AbortOnDropHandle<io::Result<Bytes>>>,
        /// Where the next read begins.
        next: u64,
        _counted: Counted,
    },
}

/// Ends when others on this thread have had their turn: a client that is as fast as the server would keep it for itself.
struct OthersTurn(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl OthersTurn {
    /// A task that wakes itself goes on before the runtime looks for what has arrived; one that yields does not.
    fn new() -> Self {
        Self(Box::pin(tokio::task::yield_now()))
    }
}

impl fmt::Debug for OthersTurn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OthersTurn")
    }
}

impl FileBody {
    /// Makes the body from the bytes `range` of `file`. `queue` is the extension of the request that is answered.
    pub fn new(file: Arc<File>, range: Range<u64>, queue: Option<&SendfileQueue>) -> Self {
        let delivery = match queue {
            Some(queue) => {
                let queue = queue.clone();
                Delivery::Sendfile { queue, turn: None, arriving: None, resident_until: range.start }
            }
            None => {
                Delivery::Read { reads: VecDeque::new(), next: range.start, _counted: Counted::one_more() }
            }
        };
        Self { file, rest: range, delivery }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { file, rest, delivery } = self.get_mut();
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = match delivery {
            Delivery::Sendfile { queue, turn, arriving, resident_until } => {
                if let Some(others) = turn {
                    ready!(others.0.as_mut().poll(context));
                    *turn = None;
                }
                ready!(poll_placeholder(file, rest, queue, arriving, resident_until, context))
            }
            Delivery::Read { reads, next, .. } => ready!(poll_bytes(file, rest, reads, next, context))?,
        };
        rest.start += bytes.len() as u64;
        if let Delivery::Sendfile { turn, .. } = delivery
            && !rest.is_empty()
        {
            *turn = Some(OthersTurn::new());
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.end.saturating_sub(self.rest.start))
    }
}

/// Gives the placeholder for the next part once that part is in memory, and has the one after it looked at.
fn poll_placeholder(
    file: &Arc<File>,
    rest: &Range<u64>,
    queue: &SendfileQueue,
    arriving: &mut Option<AbortOnDropHandle<()>>,
    resident_until: &mut u64,
    context: &mut Context<'_>,
) -> Poll<Bytes> {
    let part = first_part(rest, PLACEHOLDER_BYTES);
    loop {
        if let Some(task) = arriving {
            // Its result is nothing; a task that was ended by a shutdown leaves a part that may have to be waited for.
            let _ = ready!(Pin::new(task).poll(context));
            *arriving = None;
        }
        if *resident_until >= part.end {
            break;
        }
        *arriving = page_cache::bring_in(file, part.start, part.end - part.start);
        *resident_until = part.end;
    }
    let after = first_part(&(part.end..rest.end), PLACEHOLDER_BYTES);
    if !after.is_empty() {
        *arriving = page_cache::bring_in(file, after.start, after.end - after.start);
        *resident_until = after.end;
    }
    Poll::Ready(queue.push(Arc::clone(file), part.start, length_of(&part), after.is_empty()))
}

/// Gives the next bytes read, and keeps further reads under way.
fn poll_bytes(
    file: &Arc<File>,
    rest: &Range<u64>,
    reads: &mut VecDeque<AbortOnDropHandle<io::Result<Bytes>>>,
    next: &mut u64,
    context: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    let read_bytes = read_bytes(BODIES_READ.load(Ordering::Relaxed));
    if reads.is_empty() {
        let part = first_part(rest, read_bytes);
        let length = length_of(&part);
        if length <= INLINE_BYTES {
            let mut buffer = Buffer::of(length);
            if page_cache::read_resident(file, buffer.as_mut(), part.start)?.is_some() {
                *next = part.end;
                return Poll::Ready(Ok(Bytes::from_owner(buffer)));
            }
        }
    }
    while reads.len() <= READS_AHEAD && *next < rest.end {
        let part = first_part(&(*next..rest.end), read_bytes);
        let file = Arc::clone(file);
        *next = part.end;
        reads.push_back(AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            let mut buffer = Buffer::of(length_of(&part));
            file.read_exact_at(buffer.as_mut(), part.start)?;
            Ok(Bytes::from_owner(buffer))
        })));
    }
    let Some(first) = reads.front_mut() else {
        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
    };
    let read = ready!(Pin::new(first).poll(context));
    reads.pop_front();
    Poll::Ready(read.unwrap_or_else(|ended| Err(io::Error::other(ended))))
}

/// How much one of `bodies` bodies reads at once so that together they stay within [`SHARED_BYTES`].
fn read_bytes(bodies: usize) -> usize {
    let buffers_each = READS_AHEAD + 2;
    (SHARED_BYTES / (bodies.max(1) * buffers_each)).clamp(SMALL_READ_BYTES, READ_BYTES)
}

fn first_part(range: &Range<u64>, most: usize) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(most as u64))
}

fn length_of(part: &Range<u64>) -> usize {
    usize::try_from(part.end - part.start).expect("a part is at most a placeholder long")
}

/// Counts the bodies that are read, for as long as it lives.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn one_more() -> Self {
        BODIES_READ.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        BODIES_READ.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory for one read. The largest go round: fresh pages would cost more than the read itself.
struct Buffer(Vec<u8>);

impl Buffer {
    fn of(length: usize) -> Self {
        // Never for a shorter read, which would hold more than its share.
        let spare = if length == READ_BYTES { spares().pop() } else { None };
        Self(spare.unwrap_or_else(|| vec![0; length]))
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() == READ_BYTES {
            let mut spares = spares();
            if spares.len() < SPARE_BUFFERS {
                spares.push(std::mem::take(&mut self.0));
            }
        }
    }
}

fn spares() -> std::sync::MutexGuard<'static, Vec<Vec<u8>>> {
    SPARES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;
    use std::time::Duration;

    use http_body_util::{BodyExt, Either, Full};
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::server::sendfile::SendfileSocket;
    use crate::server::socket::{Socket, Stream};

    const MIB: usize = 1024 * 1024;

    #[derive(Clone, Copy, Debug)]
    enum By {
        Sendfile,
        Reading,
    }

    /// Serves one connection: `/FROM-TO` is answered with that range of the file, anything else with its own path.
    async fn serve(file: &Arc<File>, by: By) -> (TcpStream, JoinHandle<hyper::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let queue = SendfileQueue::default();
        let socket =
            SendfileSocket::new(Socket::new(Stream::Tcp(server), Duration::from_secs(60)), queue.clone());
        let file = Arc::clone(file);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let path = &request.uri().path()[1..];
            let queue = matches!(by, By::Sendfile).then_some(&queue);
            let body = match path.split_once('-') {
                Some((from, to)) => {
                    let range = from.parse().unwrap()..to.parse().unwrap();
                    Either::Left(FileBody::new(Arc::clone(&file), range, queue))
                }
                None => {
                    Either::Right(Full::new(Bytes::from(path.to_owned())).map_err(|never| match never {}))
                }
            };
            async { Ok::<_, io::Error>(Response::new(body)) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        (client, tokio::spawn(connection))
    }

    async fn ask(client: &mut TcpStream, paths: &[String]) {
        let requests: String =
            paths.iter().map(|path| format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
        client.write_all(requests.as_bytes()).await.unwrap();
    }

    /// Reads one response: the length it promises, and as much of its body as comes.
    async fn answer(client: &mut TcpStream) -> (usize, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let promised = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let promised: usize = promised.parse().unwrap();
        let mut body = Vec::new();
        // A connection that was cut may end with a reset; what came before it counts.
        let _ = client.take(promised as u64).read_to_end(&mut body).await;
        (promised, body)
    }

    /// No two of its 8-byte words are alike, and none is zero.
    fn content(length: usize) -> Vec<u8> {
        (1..).flat_map(|word: u64| (word << 20 | 0xb10b).to_le_bytes()).take(length).collect()
    }

    fn file_with(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn every_size_and_range_arrives_as_it_is_in_the_file() {
        const PART: usize = PLACEHOLDER_BYTES;
        let content = content(2 * PART + 7);
        let file = file_with(&content);
        let length = content.len();
        let edges = [0, 1, 4095, 4096, 65_537, READ_BYTES, PART - 1, PART, PART + 1, 2 * PART, length];
        for by in [By::Sendfile, By::Reading] {
            let (mut client, _server) = serve(&file, by).await;
            for (from, to) in edges.iter().flat_map(|from| edges.iter().map(move |to| (*from, *to))) {
                if from > to {
                    continue;
                }
                ask(&mut client, &[format!("{from}-{to}")]).await;
                let (promised, body) = answer(&mut client).await;
                assert_eq!(promised, to - from);
                assert!(body == content[from..to], "{from}-{to} by {by:?}");
            }
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_after_each_part() {
        let file = file_with(&content(PLACEHOLDER_BYTES + 1));
        let queue = SendfileQueue::default();
        let mut body = FileBody::new(file, 0..PLACEHOLDER_BYTES as u64 + 1, Some(&queue));
        let part = body.frame().await.unwrap().unwrap();
        assert_eq!(part.data_ref().unwrap().len(), PLACEHOLDER_BYTES);
        let mut rest = Box::pin(body.frame());
        let waker = Arc::new(Woken::default());
        assert!(rest.as_mut().poll(&mut Context::from_waker(&Arc::clone(&waker).into())).is_pending());
        assert!(!waker.0.load(Ordering::Relaxed), "it wakes itself, and the runtime looks for nobody else");
        while !waker.0.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        assert_eq!(rest.await.unwrap().unwrap().data_ref().unwrap().len(), 1);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn offsets_beyond_four_gibibytes_are_exact() {
        let content = content(MIB + 100);
        let start = 5 * 1024 * MIB as u64 - 50;
        let file = file_with(b"");
        file.write_all_at(&content, start).unwrap();
        for by in [By::Sendfile, By::Reading] {
            let (mut client, _server) = serve(&file, by).await;
            ask(&mut client, &[format!("{start}-{}", start + content.len() as u64)]).await;
            assert!(answer(&mut client).await.1 == content, "by {by:?}");
        }
    }

    #[tokio::test]
    async fn pipelined_requests_for_files_and_text_are_answered_in_order() {
        let content = content(3 * MIB);
        let file = file_with(&content);
        for by in [By::Sendfile, By::Reading] {
            let (mut client, _server) = serve(&file, by).await;
            let paths: Vec<String> = (0..40)
                .flat_map(|index| {
                    let from = index * 1000;
                    [
                        format!("{from}-{}", from + index * 50_000),
                        format!("text{index}"),
                        format!("{from}-{from}"),
                    ]
                })
                .collect();
            ask(&mut client, &paths).await;
            for path in &paths {
                let (promised, body) = answer(&mut client).await;
                let expected = match path.split_once('-') {
                    Some((from, to)) => &content[from.parse().unwrap()..to.parse().unwrap()],
                    None => path.as_bytes(),
                };
                assert_eq!(promised, expected.len(), "{path} by {by:?}");
                assert!(body == expected, "{path} by {by:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_cuts_the_connection_and_sends_no_padding() {
        let content = content(8 * MIB);
        for by in [By::Sendfile, By::Reading] {
            let file = file_with(&content);
            let (mut client, server) = serve(&file, by).await;
            file.set_len(3 * MIB as u64 + 5).unwrap();
            ask(&mut client, &[format!("0-{}", content.len())]).await;
            let (promised, body) = answer(&mut client).await;
            assert_eq!(promised, content.len());
            assert!(body.len() <= 3 * MIB + 5, "{} bytes by {by:?}", body.len());
            assert!(content.starts_with(&body), "by {by:?}");
            assert!(server.await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_the_reading() {
        let file = file_with(b"");
        file.set_len(100 * 1024 * MIB as u64).unwrap();
        for by in [By::Sendfile, By::Reading] {
            let (mut client, server) = serve(&file, by).await;
            ask(&mut client, &[format!("0-{}", 100 * 1024 * MIB)]).await;
            client.read_u8().await.unwrap();
            drop(client);
            assert!(server.await.unwrap().is_err());
            // A read that had begun ends by itself; none begins any more.
            while Arc::strong_count(&file) > 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn parts_of_files_may_stand_between_text_in_one_body() {
        let content = content(2 * MIB);
        let file = file_with(&content);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let queue = SendfileQueue::default();
        let socket =
            SendfileSocket::new(Socket::new(Stream::Tcp(server), Duration::from_secs(60)), queue.clone());
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            let text =
                |text: &'static str| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
            let part = |range| FileBody::new(Arc::clone(&file), range, Some(&queue)).boxed();
            let parts = [
                text("one:"),
                part(5..MIB as u64 + 5),
                text("two:"),
                part(0..3),
                part(7..9),
                text("three"),
                part(1..1),
            ];
            let frames = parts.map(BodyExt::into_data_stream);
            let stream = futures_util::stream::iter(frames);
            let frames = futures_util::StreamExt::flatten(stream);
            let frames = futures_util::StreamExt::map(frames, |data| data.map(Frame::data));
            async { Ok::<_, io::Error>(Response::new(http_body_util::StreamBody::new(frames))) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        let server = tokio::spawn(connection);
        // HTTP/1.0: the body ends with the connection, without the framing of chunks in between.
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let mut expected = b"one:".to_vec();
        expected.extend_from_slice(&content[5..MIB + 5]);
        expected.extend_from_slice(b"two:");
        expected.extend_from_slice(&content[..3]);
        expected.extend_from_slice(&content[7..9]);
        expected.extend_from_slice(b"three");
        assert!(response[end..] == expected);
        server.await.unwrap().unwrap();
    }

    #[test]
    fn many_bodies_share_the_memory_of_a_few() {
        assert_eq!(read_bytes(1), READ_BYTES);
        assert_eq!(read_bytes(10_000), SMALL_READ_BYTES);
        for bodies in [1, 10, 32, 100, 500] {
            let buffers: Vec<Buffer> =
                (0..bodies * (READS_AHEAD + 2)).map(|_| Buffer::of(read_bytes(bodies))).collect();
            let held: usize = buffers.iter().map(|buffer| buffer.0.len()).sum();
            assert!(held <= SHARED_BYTES, "{held} bytes for {bodies} bodies");
        }
    }
}
