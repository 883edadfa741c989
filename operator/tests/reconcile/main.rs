//! Whole passes against an API server, nodes and a kubelet in memory: from `spec: {}` to Ready, killed anywhere on the
//! way, refused anywhere on the way, and quiet once it is there.
//!
//! ```text
//! reconcile  ->  kube::Client  ->  server.rs  ->  objects.rs
//!            \                                      ^
//!             ->  admin client ->  nodes.rs  <---  kubelet.rs (between passes)
//! ```

mod backups;
mod bed;
mod controller;
mod crash;
mod deletion;
mod kubelet;
mod leases;
mod nodes;
mod objects;
mod passes;
mod server;
mod tls;
mod users;
