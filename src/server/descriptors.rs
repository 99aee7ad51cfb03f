//! How many files and sockets the process may have open at once.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What one connection takes: its socket, and the file that is pulled or pushed by it. Not all do at once, which leaves enough for
/// whatever else is open.
const OF_A_CONNECTION: u64 = 2;

/// Raises what is allowed to the most that the system lets the process have, and warns if that is too little for so many
/// `connections`.
pub fn raise_limit(connections: NonZeroUsize) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files is left as it is");
    }
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
    let needed = (connections.get() as u64).saturating_mul(OF_A_CONNECTION);
    if allowed < needed {
        tracing::warn!(
            "the system lets this process have {allowed} files and sockets open, and {connections} connections \
             (http.limits.connections) may take {needed}: raise that limit (ulimit -Hn, or LimitNOFILE of systemd), or \
             allow fewer connections"
        );
    }
}
