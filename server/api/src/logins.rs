//! Whether a node has read the passwords and users that it was given: a mark that it shows in its status, and that who
//! wrote the files can make as well.
//!
//! ```text
//! contents   SHA-256 of: length of requirepass_file (u64, little endian), its bytes; the same of acl_file
//! mark       first 16 hex digits of SHA-256 of "<node id>:<contents>", both in hex
//! ```
//!
//! The node id in it keeps nodes apart. Whoever has a mark can try passwords against it, so a node shows it only to callers
//! who have proved themselves by a certificate.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::Id;

/// What both files hold, as 64 hex digits; a file that there is none of is empty.
#[must_use]
pub fn contents(passwords: &[u8], rules: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [passwords, rules] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// [`crate::status::NodeStatus::logins`] of a node that has taken these [`contents`].
#[must_use]
pub fn mark(node: Id, contents: &str) -> String {
    let mut digits = hex(&Sha256::digest(format!("{node}:{contents}")));
    digits.truncate(16);
    digits
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing into a String does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_differ_by_node_and_by_every_byte_of_both_files() {
        let one = contents(b"a\n", b"");
        assert_ne!(one, contents(b"a", b"\n"));
        assert_ne!(one, contents(b"", b"a\n"));
        assert_eq!(mark(Id(1), &one).len(), 16);
        assert_ne!(mark(Id(1), &one), mark(Id(2), &one));
        assert_eq!(mark(Id(1), &one), mark(Id(1), &contents(b"a\n", b"")));
    }
}
