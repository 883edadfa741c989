//! The answers of `/livez`, `/readyz` and `/startupz`.

use serde::{Deserialize, Serialize};

/// One probe's verdict. Status 200 if `ok`, else 503.
///
/// Shape: `{"ok":false,"reasons":["leader not known for 7200 ms"]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The probe passes.
    pub ok: bool,
    /// Why it does not; empty if it does.
    pub reasons: Vec<String>,
}
