//! Why a pass ended early, in words for people, and the one way to call the API server.

use std::time::Duration;

use tokio::time::timeout;

use crate::admin_client::NodeError;
use crate::pki::PkiError;

/// Longest wait for one answer of the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a pass ended early. The next one begins from the front.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("{doing}: {}", said(source))]
    Api {
        /// What was being done: "list pods".
        doing: String,
        /// Its answer. Boxed: it is large.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time; what was asked may have happened.
    #[error("{doing}: the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Late {
        /// What was being done.
        doing: String,
    },
    /// A node refused a verb, or did not answer.
    #[error("{0}")]
    Node(#[from] NodeError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// `spec.tls.mode: CertManager`, and the API server knows no Certificate.
    #[error(
        "this Kubernetes knows no Certificate of cert-manager.io: install cert-manager, or delete the KvCluster and make it anew with another spec.tls.mode"
    )]
    NoCertManager,
    /// A Secret that somebody else keeps, and the spec names, lacks what it should have.
    #[error("{what}")]
    Given {
        /// `spec.field: what is wrong`.
        what: String,
        /// Pods cannot do without it; else they go on with what they have.
        blocks: bool,
    },
    /// What is to be written has the name of something else.
    #[error("{what} belongs to something else: rename or delete it")]
    NameTaken {
        /// `kind/name`.
        what: String,
    },
    /// A step names a pod that is not there any more.
    #[error("{doing}: {pod} has no address")]
    NoAddress {
        /// What was being done.
        doing: String,
        /// The pod.
        pod: String,
    },
}

/// The API server's own message, with what to do where we know it.
fn said(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else { return chain(error) };
    let message = if status.message.is_empty() { &status.reason } else { &status.message };
    if status.is_forbidden() {
        return format!(
            "the operator lacks a permission ({message}); apply the chart or deploy/install.yaml of this version again"
        );
    }
    format!("{message} ({})", status.code)
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Error {
    /// A word for metric labels; the list is closed.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.is_forbidden() => "forbidden",
                kube::Error::Api(status) if status.code == 409 => "conflict",
                kube::Error::Api(status) if status.code == 429 => "throttled",
                kube::Error::Api(_) => "api_refused",
                _ => "api_unreachable",
            },
            Error::Late { .. } => "api_late",
            Error::Node(error) => error.kind(),
            Error::Pki(_) | Error::NoCertManager => "certificate",
            Error::Given { .. } => "secret",
            Error::NameTaken { .. } => "name_taken",
            Error::NoAddress { .. } => "no_address",
        }
    }

    /// The API server does not do it, now or later: it does not know how, forbids it, or calls it invalid.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let Error::Api { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(status) if [400, 403, 404, 405, 422].contains(&status.code))
    }

    /// What is planned must wait for it.
    #[must_use]
    pub fn blocks(&self) -> bool {
        !matches!(self, Error::Given { blocks: false, .. })
    }

    /// It stays as it is until somebody changes something: a permission, an object, what is installed.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        match self {
            Error::Pki(_) | Error::NoCertManager | Error::Given { .. } | Error::NameTaken { .. } => true,
            Error::Api { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if [400, 403, 405, 422].contains(&status.code))
            }
            Error::Late { .. } | Error::Node(_) | Error::NoAddress { .. } => false,
        }
    }

    /// Nothing may be made in this namespace any more: it is being deleted.
    #[must_use]
    pub fn is_terminating_namespace(&self) -> bool {
        let Error::Api { source, .. } = self else { return false };
        let kube::Error::Api(status) = &**source else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        status.is_forbidden() && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Somebody else was faster; the next pass sees what they did. No reason to back off for long.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Error::Node(error) => error.is_stale(),
            other => other.kind() == "conflict",
        }
    }
}

/// Calls the API server, with a limit of time. `doing` is "verb what", for people.
///
/// # Errors
/// [`Error::Api`] and [`Error::Late`].
pub async fn asked<T>(
    doing: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api { doing: doing.into(), source: Box::new(source) }),
        Err(_) => Err(Error::Late { doing: doing.into() }),
    }
}

/// The same, where "not found" is an answer, too: `None`.
///
/// # Errors
/// Everything else.
pub async fn asked_opt<T>(
    doing: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Option<T>, Error> {
    match asked(doing, call).await {
        Ok(found) => Ok(Some(found)),
        // By the code: a group that is not there is answered with a line of text, not with a Status.
        Err(Error::Api { source, .. }) if is(&source, |status| status.code == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same for what we can do without: "not allowed" is an answer, too.
///
/// # Errors
/// Everything else.
pub async fn asked_if<T>(
    doing: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Asked<T>, Error> {
    match asked_opt(doing, call).await {
        Ok(Some(found)) => Ok(Asked::Found(found)),
        Ok(None) => Ok(Asked::Gone),
        Err(Error::Api { source, .. }) if is(&source, kube::core::Status::is_forbidden) => {
            Ok(Asked::Forbidden)
        }
        Err(error) => Err(error),
    }
}

fn is(error: &kube::Error, what: impl Fn(&kube::core::Status) -> bool) -> bool {
    matches!(error, kube::Error::Api(status) if what(status))
}

/// An answer to [`asked_if`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// It is there.
    Found(T),
    /// It is not there.
    Gone,
    /// We may not know.
    Forbidden,
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> Error {
        let status = Status::failure(message, reason).with_code(code).boxed();
        Error::Api { doing: "apply StatefulSet cart".into(), source: Box::new(kube::Error::Api(status)) }
    }

    #[test]
    fn texts_say_what_was_done_what_was_said_and_what_to_do() {
        let message =
            "statefulsets.apps \"cart\" is forbidden: User \"op\" cannot patch resource \"statefulsets\"";
        let forbidden = api(403, "Forbidden", message);
        let text = forbidden.to_string();
        assert!(text.starts_with("apply StatefulSet cart: the operator lacks a permission"), "{text}");
        assert!(text.contains("cannot patch resource") && text.contains("deploy/install.yaml"), "{text}");
        assert_eq!(forbidden.kind(), "forbidden");
        let conflict = api(409, "Conflict", "the object has been modified");
        assert_eq!(conflict.to_string(), "apply StatefulSet cart: the object has been modified (409)");
        assert!(conflict.is_conflict() && !forbidden.is_conflict());
        assert_eq!(api(429, "TooManyRequests", "slow down").kind(), "throttled");
    }
}
