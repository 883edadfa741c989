//! Who runs the writer: a thread of its own, or, in the simulation, a task on its one thread.
//!
//! A simulated writer takes what is queued after the time that the node's disk needs for a sync just then, so that
//! crashes fall before, between and behind writes. Where a caller blocks until the disk has answered, it runs the writer
//! itself.

#[cfg(feature = "sim")]
pub(super) use self::task::Runner;
#[cfg(not(feature = "sim"))]
pub(super) use self::thread::Runner;

#[cfg(not(feature = "sim"))]
mod thread {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::mpsc::Receiver;
    use std::thread::{Builder, JoinHandle, current};

    use parking_lot::Mutex;

    use crate::raft::log::LogError;
    use crate::raft::log::state::Shared;
    use crate::raft::log::writer::Writer;

    /// The writer's thread.
    pub(in crate::raft::log) struct Runner(Mutex<Option<JoinHandle<()>>>);

    impl Runner {
        pub(in crate::raft::log) fn start(writer: Writer, group: u32) -> Result<Self, LogError> {
            let shared = Arc::clone(&writer.shared);
            let body = move || {
                if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                    let cause = "the writer thread panicked".to_owned();
                    let error = LogError::Io { doing: "write", path: shared.disk.path(""), cause };
                    shared.fail(&error);
                    shared.refuse(Vec::new(), &error);
                }
            };
            let named = Builder::new().name(format!("raft-log-{group}"));
            let thread = named.spawn(body);
            let failed = |error| LogError::io("start the writer thread of", PathBuf::new(), &error);
            Ok(Self(Mutex::new(Some(thread.map_err(failed)?))))
        }

        /// Something is queued.
        #[expect(clippy::unused_self, reason = "a simulated writer is woken itself")]
        pub(in crate::raft::log) fn wake(&self, shared: &Shared) {
            shared.work.notify_one();
        }

        /// Blocks until an operation is answered.
        #[expect(clippy::unused_self, reason = "a simulated writer is run by who waits")]
        pub(in crate::raft::log) fn wait(
            &self,
            answer: &Receiver<Result<(), LogError>>,
        ) -> Result<(), LogError> {
            answer.recv().unwrap_or(Err(LogError::Closed))
        }

        /// Waits for the end of the thread, which was asked for.
        pub(in crate::raft::log) fn end(&self) {
            let Some(writer) = self.0.lock().take() else { return };
            // A callback may hold the last reference: the writer cannot wait for itself.
            if writer.thread().id() != current().id() {
                // A panic of the writer has been turned into an error already.
                let _ = writer.join();
            }
        }
    }
}

#[cfg(feature = "sim")]
mod task {
    use std::sync::Arc;
    use std::sync::mpsc::Receiver;

    use parking_lot::Mutex;
    use tokio::sync::Notify;
    use tokio::time::{sleep, timeout};

    use crate::raft::log::LogError;
    use crate::raft::log::state::Shared;
    use crate::raft::log::writer::Writer;
    use crate::sim;

    /// The writer, and what calls its task.
    pub(in crate::raft::log) struct Runner {
        writer: Arc<Mutex<Option<Writer>>>,
        work: Arc<Notify>,
    }

    impl Runner {
        pub(in crate::raft::log) fn start(writer: Writer, _group: u32) -> Result<Self, LogError> {
            let runner = Self { writer: Arc::new(Mutex::new(Some(writer))), work: Arc::new(Notify::new()) };
            sim::spawn(run(runner.writer.clone(), runner.work.clone()));
            Ok(runner)
        }

        pub(in crate::raft::log) fn wake(&self, _shared: &Shared) {
            self.work.notify_one();
        }

        pub(in crate::raft::log) fn wait(
            &self,
            answer: &Receiver<Result<(), LogError>>,
        ) -> Result<(), LogError> {
            let mut slot = self.writer.lock();
            loop {
                if let Ok(answer) = answer.try_recv() {
                    return answer;
                }
                if !slot.as_mut().is_some_and(Writer::step) {
                    *slot = None;
                    return answer.try_recv().unwrap_or(Err(LogError::Closed));
                }
            }
        }

        pub(in crate::raft::log) fn end(&self) {
            // A callback of the writer may hold the last reference to the log; then the writer sees by itself that it is
            // to end.
            let writer = self.writer.try_lock().and_then(|mut slot| slot.take());
            if let Some(writer) = writer {
                writer.run();
            }
            self.work.notify_one();
        }
    }

    async fn run(writer: Arc<Mutex<Option<Writer>>>, work: Arc<Notify>) {
        loop {
            let due = writer.lock().as_ref().and_then(Writer::sync_due_in);
            match due {
                // A sync that is due is work as well as what is queued.
                Some(left) => drop(timeout(left, work.notified()).await),
                None => work.notified().await,
            }
            sleep(sim::sync_delay()).await;
            let mut slot = writer.lock();
            if !slot.as_mut().is_some_and(Writer::step) {
                *slot = None;
                return;
            }
            if slot.as_ref().is_some_and(Writer::has_work) {
                work.notify_one();
            }
        }
    }
}
