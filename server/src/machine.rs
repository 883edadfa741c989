//! What the program takes of the machine and a simulation gives it in its place: sockets, and threads for what blocks.
//!
//! Without the feature `sim` every name here is tokio's own, so that the seam costs nothing. With it, sockets are those
//! of `sim::net` and blocking work runs on the one thread that there is, as a task of its own. The clock has its
//! seam in [`crate::clock`], the disk of the Raft log in `raft::log::disk`.

/// Whether a bug is planted at this place ([`crate::sim::BUGS`]); never outside the simulation.
#[cfg(feature = "sim")]
macro_rules! planted {
    ($bug:literal) => {
        $crate::sim::planted($bug)
    };
}

/// Whether a bug is planted at this place; never outside the simulation.
#[cfg(not(feature = "sim"))]
macro_rules! planted {
    ($bug:literal) => {
        false
    };
}

#[cfg(not(feature = "sim"))]
mod real {
    use std::time::Duration;

    pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use tokio::net::{TcpListener, TcpStream};
    pub use tokio::task::spawn_blocking;

    /// How much less of a contended core such work gets (`nice`): a tenth of what serves clients.
    const BEHIND: i32 = 10;

    /// Runs long work on a thread of its own that stands behind those that serve clients, and waits for it.
    ///
    /// # Errors
    /// As `pthread_create`; nothing was done.
    pub fn behind<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
        std::thread::scope(|scope| {
            let run = || {
                if let Err(error) = rustix::process::nice(BEHIND) {
                    tracing::debug!(%error, "lower the priority of a thread");
                }
                work()
            };
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run)?;
            Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Has the kernel ask a silent peer whether it is still there: after `idle`, then thrice.
    ///
    /// # Errors
    /// As `setsockopt`.
    pub fn keep_alive(stream: &TcpStream, idle: Duration) -> std::io::Result<()> {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, idle)?;
        sockopt::set_tcp_keepintvl(stream, idle / 3)?;
        sockopt::set_tcp_keepcnt(stream, 3)?;
        Ok(())
    }

    /// What is written from now on leaves together with the end of the stream, as far as it fits into one packet.
    ///
    /// # Errors
    /// As `setsockopt`.
    pub fn cork(stream: &TcpStream) -> std::io::Result<()> {
        Ok(rustix::net::sockopt::set_tcp_cork(stream, true)?)
    }
}

#[cfg(not(feature = "sim"))]
pub use real::{
    OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream, behind, cork, keep_alive, spawn_blocking,
};

#[cfg(feature = "sim")]
pub use crate::sim::net::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream, cork, keep_alive};
#[cfg(feature = "sim")]
pub use crate::sim::{behind, spawn_blocking};
