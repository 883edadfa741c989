//! Links that delay what passes: a TCP forwarder before the peer address of a node, as long as the way to another city.
//!
//! ```text
//! node A --> [read, stamped] --queue, QUEUE_MAX chunks--> [held until stamp + delay, written] --> node B
//!        <-- the same the other way; both make a round trip longer by 2 delays <--
//! ```
//!
//! Threads that block, not tasks: the runtime's timers know milliseconds only, and half a round trip is less. What a
//! link does not have is a limit of its rate, jitter or loss. Its copying costs CPU that a real network would not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvnode_tests::wait::SOON;

/// Chunks under way in one direction of a connection; then the sender waits, as behind a full window.
const QUEUE_MAX: usize = 512;
const CHUNK_BYTES: usize = 64 * 1024;

/// One link; its connections end with it.
pub(crate) struct Link {
    /// Where it listens, `host:port`.
    pub(crate) addr: String,
    shared: Arc<Shared>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    delay: Duration,
    /// Where it leads; connections that come before that is known wait.
    target: Mutex<Option<String>>,
    known: Condvar,
    stopped: AtomicBool,
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

/// Bytes, and when they leave.
type Chunk = (Instant, Vec<u8>);

impl Link {
    /// Listens on loopback; each direction takes half of the round trip.
    pub(crate) fn start(round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            delay: round_trip / 2,
            target: Mutex::default(),
            known: Condvar::new(),
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let own = shared.clone();
        let accept = move || {
            while let Ok((client, _)) = listener.accept() {
                if own.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let own = own.clone();
                // It ends with either side of the connection, and all of them are shut down with the link.
                let _ = std::thread::Builder::new().name("link".into()).spawn(move || own.serve(client));
            }
        };
        let accepting = std::thread::Builder::new().name("link-accept".into()).spawn(accept)?;
        Ok(Self { addr, shared, accepting: Some(accepting) })
    }

    /// Says where it leads.
    pub(crate) fn lead_to(&self, target: &str) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target.to_owned());
        self.shared.known.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.known.notify_all();
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.upgrade().map(|stream| stream.shutdown(Shutdown::Both));
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.addr);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Carries one connection to its end.
    fn serve(&self, client: TcpStream) {
        // Either side may just vanish: then the other one's connection ends too.
        let _ = self.carry(client);
    }

    fn carry(&self, client: TcpStream) -> Result<()> {
        let target = self.target().context("the link leads nowhere yet")?;
        let server = Arc::new(TcpStream::connect(target)?);
        let client = Arc::new(client);
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(stream));
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Ok(());
        }
        std::thread::scope(|scope| {
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (sender, receiver) = sync_channel(QUEUE_MAX);
                scope.spawn(move || take(from, &sender, self.delay));
                scope.spawn(move || give(to, &receiver));
            }
        });
        Ok(())
    }

    fn target(&self) -> Option<String> {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |target: &mut Option<String>| target.is_none() && !self.stopped.load(Ordering::SeqCst);
        let waited = self.known.wait_timeout_while(target, SOON, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// Reads until the end, which the other thread hears by the end of the queue.
fn take(mut from: &TcpStream, sender: &SyncSender<Chunk>, delay: Duration) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length) = from.read(&mut buffer) {
        let chunk = (Instant::now() + delay, buffer[..length].to_vec());
        if length == 0 || sender.send(chunk).is_err() {
            return;
        }
    }
}

/// Writes each chunk when its time has come; then the end.
fn give(mut to: &TcpStream, receiver: &Receiver<Chunk>) {
    while let Ok((due, bytes)) = receiver.recv() {
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        if to.write_all(&bytes).is_err() {
            // Nobody takes it: the side that sends must hear of it.
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_the_delay_and_all_bytes_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(Duration::from_millis(20)).unwrap();
        let mut client = TcpStream::connect(&link.addr).unwrap();
        // It waits until it is known where it leads.
        link.lead_to(&listener.local_addr().unwrap().to_string());
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut copied = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut copied).unwrap();
        });
        let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let start = Instant::now();
        client.write_all(&sent[..4]).unwrap();
        let mut got = vec![0; 4];
        client.read_exact(&mut got).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
        let mut writing = client.try_clone().unwrap();
        let rest = sent[4..].to_vec();
        let writer = std::thread::spawn(move || {
            writing.write_all(&rest).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        client.read_to_end(&mut got).unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        writer.join().unwrap();
        echo.join().unwrap();
    }

    #[test]
    fn the_end_of_a_link_ends_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(Duration::ZERO).unwrap();
        link.lead_to(&listener.local_addr().unwrap().to_string());
        let mut client = TcpStream::connect(&link.addr).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(link);
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        drop(server);
    }
}
