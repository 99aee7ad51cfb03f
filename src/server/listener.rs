//! Where clients connect: TCP over IPv4 and IPv6, and Unix sockets.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::socket::DetachedStream;
use crate::config::Address;

/// How many connections wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that connections are accepted from.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp { listener: TcpListener, address: SocketAddr },
    Unix { listener: UnixListener, path: PathBuf },
}

/// Where a listener really is: the port is known even if the system chose it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BoundAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

impl Listener {
    pub(super) async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::EveryInterface { port } => bind_tcp((Ipv6Addr::UNSPECIFIED, *port).into())
                // A kernel without IPv6.
                .or_else(|_| bind_tcp((Ipv4Addr::UNSPECIFIED, *port).into())),
            Address::Tcp { host, port } => {
                let mut addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
                addresses.sort_by_key(SocketAddr::is_ipv6);
                let first = addresses.first().ok_or_else(|| io::Error::other("the name has no address"))?;
                bind_tcp(*first)
            }
            Address::Unix(path) => bind_unix(path),
        }
    }

    pub(super) fn address(&self) -> BoundAddress {
        match self {
            Self::Tcp { address, .. } => BoundAddress::Tcp(*address),
            Self::Unix { path, .. } => BoundAddress::Unix(path.clone()),
        }
    }

    /// Waits for the next client; its address is known on TCP.
    pub(super) async fn accept(&self) -> io::Result<(DetachedStream, Option<SocketAddr>)> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, client) = listener.accept().await?;
                // Fails only if the client is gone already, which whoever reads finds out.
                let _ = stream.set_nodelay(true);
                Ok((DetachedStream::Tcp(stream.into_std()?), Some(client)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((DetachedStream::Unix(stream.into_std()?), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // Nobody can connect to it any more; the next start would remove it too.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds an address; that of all IPv6 interfaces takes IPv4 as well.
fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok(Listener::Tcp { listener, address })
}

/// Binds a path. A socket that a server left there when it died is replaced; a living one is not, nor is anything else.
fn bind_unix(path: &Path) -> io::Result<Listener> {
    // Whoever connects to a file is refused, as by a dead server's socket: it must not be taken for one.
    if let Ok(kind) = std::fs::symlink_metadata(path).map(|there| there.file_type())
        && !kind.is_socket()
    {
        let what = if kind.is_dir() {
            "a folder"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else {
            "a file"
        };
        let what = format!("{what} is there, and no socket; name another path, or remove it");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        // There is nothing, or what `bind` will name; the other answer is a living server.
        Err(_) => {}
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
    }
    let listener = UnixListener::bind(path)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(Listener::Unix { listener, path: path.to_owned() })
}
