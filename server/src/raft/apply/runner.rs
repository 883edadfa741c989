//! Who does the jobs: the apply thread, or, in the simulation, a task on its one thread that begins each after the time
//! that the node needs for one just then.

use super::{JOBS_MAX, Job, Worker};

#[cfg(feature = "sim")]
pub(super) use self::task::Runner;
#[cfg(not(feature = "sim"))]
pub(super) use self::thread::Runner;

#[cfg(not(feature = "sim"))]
mod thread {
    use std::sync::Arc;
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::thread::{Builder, JoinHandle};

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::{JOBS_MAX, Job, Worker};

    /// The thread and its queue.
    #[derive(Clone)]
    pub(in crate::raft::apply) struct Runner {
        jobs: SyncSender<Job>,
        thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    }

    impl Runner {
        pub(in crate::raft::apply) fn start(mut worker: Worker) -> std::io::Result<Self> {
            let (jobs, queue) = sync_channel(JOBS_MAX);
            let run = move || {
                while queue.recv().is_ok_and(|job| worker.perform(job)) {}
            };
            let thread = Builder::new().name("kvnode-apply".into()).spawn(run)?;
            Ok(Self { jobs, thread: Arc::new(Mutex::new(Some(thread))) })
        }

        /// An error says that the thread has ended.
        #[expect(clippy::unused_async, reason = "the simulation waits for room")]
        pub(in crate::raft::apply) async fn send(&self, job: Job) -> Result<(), ()> {
            self.jobs.send(job).map_err(drop)
        }

        /// Waits for the end of the thread, whose last job is done.
        ///
        /// The thread lets RocksDB go behind its answer, and a process that exits meanwhile is aborted by RocksDB's own
        /// clean-up ("pthread lock: Invalid argument").
        pub(in crate::raft::apply) async fn ended(&self) {
            let Some(thread) = self.thread.lock().take() else { return };
            let (ended, wait) = oneshot::channel();
            // On a thread of its own and not the runtime's, which could not end before it if the caller loses patience.
            let join = move || {
                if thread.join().is_err() {
                    tracing::error!("the thread kvnode-apply panicked");
                }
                let _ = ended.send(());
            };
            if Builder::new().name("kvnode-join".into()).spawn(join).is_ok() {
                let _ = wait.await;
            }
        }
    }
}

#[cfg(feature = "sim")]
mod task {
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::{JOBS_MAX, Job, Worker};
    use crate::sim;

    /// The queue of the task.
    #[derive(Clone)]
    pub(in crate::raft::apply) struct Runner(mpsc::Sender<Job>);

    impl Runner {
        pub(in crate::raft::apply) fn start(mut worker: Worker) -> std::io::Result<Self> {
            let (jobs, mut queue) = mpsc::channel(JOBS_MAX);
            sim::spawn(async move {
                while let Some(job) = queue.recv().await {
                    sleep(sim::apply_delay()).await;
                    if !worker.perform(job) {
                        return;
                    }
                }
            });
            Ok(Self(jobs))
        }

        pub(in crate::raft::apply) async fn send(&self, job: Job) -> Result<(), ()> {
            self.0.send(job).await.map_err(drop)
        }

        pub(in crate::raft::apply) async fn ended(&self) {
            self.0.closed().await;
        }
    }
}
