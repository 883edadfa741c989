//! Step 5: one replicated group. The only module that names openraft.

pub mod group;
pub mod log;

pub use group::{Group, Leader, MemberError, MemberStatus, ProposeError, ReadError, Role, Status};
