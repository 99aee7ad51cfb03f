//! The threads that serve connections: one a CPU, each with a runtime of its own. A connection stays on its thread, so that a
//! request is read, answered and sent without waking another one: that costs as much as all the rest of a manifest's pull.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many tasks run before a thread looks for what else has arrived. Looked for more often, what came last is served before
/// what came first.
const EVENT_INTERVAL: u32 = 256;

/// How many threads wait for disks, and hash, at once, shared by all; what is more waits for its turn. A disk is not faster
/// for being asked by more of them, and each takes memory.
const BLOCKING_THREADS: usize = 64;

/// However many there are to share them, each of the threads for connections has these for itself.
const BLOCKING_THREADS_EACH: usize = 16;

/// How long a thread that ends waits for a disk that does not answer.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The threads, for as long as there is a clone.
#[derive(Clone, Debug)]
pub struct Workers {
    workers: Arc<[Worker]>,
    _running: Arc<DropGuard>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Each connection holds a clone.
    load: Arc<()>,
}

impl Workers {
    /// Starts a thread for each CPU that the process may use, in a container by its quota.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start() -> io::Result<Self> {
        let stopping = CancellationToken::new();
        let count = thread::available_parallelism()?.get();
        let workers = (0..count)
            .map(|number| {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .event_interval(EVENT_INTERVAL)
                    .max_blocking_threads(BLOCKING_THREADS.div_ceil(count).max(BLOCKING_THREADS_EACH))
                    .thread_name(format!("wharf-blocking-{number}"))
                    .build()?;
                let worker = Worker { runtime: runtime.handle().clone(), load: Arc::default() };
                let stopping = stopping.clone();
                thread::Builder::new()
                    .name(format!("wharf-worker-{number}"))
                    .spawn(move || run(runtime, &stopping))?;
                Ok(worker)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, _running: Arc::new(stopping.drop_guard()) })
    }

    /// Has the thread with the fewest connections serve one more, as one of `clients`.
    pub(super) fn spawn(
        &self,
        connection: impl Future<Output = ()> + Send + 'static,
        clients: &mut JoinSet<()>,
    ) {
        let idlest = self.workers.iter().min_by_key(|worker| worker.connections());
        let Worker { runtime, load } = idlest.expect("there is a CPU");
        let load = Arc::clone(load);
        let counted = async move {
            connection.await;
            drop(load);
        };
        clients.spawn_on(counted, runtime);
    }
}

impl Worker {
    fn connections(&self) -> usize {
        Arc::strong_count(&self.load)
    }
}

fn run(runtime: Runtime, stopping: &CancellationToken) {
    runtime.block_on(stopping.cancelled());
    runtime.shutdown_timeout(LAST_WAIT);
}
