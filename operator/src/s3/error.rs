//! What went wrong with a store, by what to do about it.

use std::error::Error as _;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

/// Kinds, for decisions and as words for conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3ErrorKind {
    /// The settings cannot be used.
    Settings,
    /// No answer: name, network, TLS, time.
    Unreachable,
    /// The certificate is not trusted.
    Untrusted,
    /// The key id is unknown, the secret is wrong, or a token has expired.
    BadCredentials,
    /// Known, but not allowed.
    AccessDenied,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is in another region.
    WrongRegion,
    /// There is no such object or upload.
    NotFound,
    /// A condition did not hold.
    Precondition,
    /// No room, or over a quota.
    Full,
    /// The clocks differ too much for signatures.
    ClockSkew,
    /// The service broke off, or said that it is broken or busy.
    Broken,
    /// Anything else that the service refused.
    Refused,
}

impl S3ErrorKind {
    /// One word of letters, for reasons and metric labels; the list is closed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "SettingsInvalid",
            Self::Unreachable => "Unreachable",
            Self::Untrusted => "CertificateNotTrusted",
            Self::BadCredentials => "CredentialsRefused",
            Self::AccessDenied => "AccessDenied",
            Self::NoBucket => "NoSuchBucket",
            Self::WrongRegion => "WrongRegion",
            Self::NotFound => "NotFound",
            Self::Precondition => "PreconditionFailed",
            Self::Full => "StorageFull",
            Self::ClockSkew => "ClockSkew",
            Self::Broken => "ServiceBroken",
            Self::Refused => "Refused",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Settings => "correct the settings",
            Self::Unreachable => "check endpoint, DNS and network policies",
            Self::Untrusted => "give the CA in caSecret",
            Self::BadCredentials => "check the credentials",
            Self::AccessDenied => {
                "allow s3:PutObject, s3:GetObject, s3:ListBucket and s3:AbortMultipartUpload"
            }
            Self::NoBucket => "make the bucket, or correct its name",
            Self::WrongRegion => "correct the region",
            Self::NotFound => "it may have been deleted",
            Self::Precondition => "somebody else wrote it",
            Self::Full => "make room in the store",
            Self::ClockSkew => "correct the clock of one of the two machines",
            Self::Broken => "it is tried again",
            Self::Refused => "see the service's documentation of that code",
        }
    }
}

/// Why a request to a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {doing}: {what}: {}", kind.as_str(), kind.remedy())]
pub struct S3Error {
    /// What was being done: `put cart/…/meta.json`.
    pub doing: String,
    /// Kind.
    pub kind: S3ErrorKind,
    /// What the service or the network said, one line.
    pub what: String,
}

impl S3Error {
    /// An error of our own.
    pub fn new(kind: S3ErrorKind, doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self { doing: doing.into(), kind, what: what.into() }
    }

    /// Worth another try with the same settings.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, S3ErrorKind::Unreachable | S3ErrorKind::Broken | S3ErrorKind::ClockSkew)
    }

    pub(super) fn from_sdk<E>(doing: impl Into<String>, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let doing = doing.into();
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let code = service.err().code().unwrap_or_default();
                let message = service.err().message().unwrap_or_default();
                let what = match (code, message) {
                    ("", _) => format!("HTTP {status}"),
                    (code, "") => format!("{code} ({status})"),
                    (code, message) => format!("{code} ({status}): {message}"),
                };
                Self { kind: service_kind(code, status), doing, what: short(&what) }
            }
            SdkError::DispatchFailure(failure) => {
                let what = failure.as_connector_error().map_or_else(|| chain(error), |error| chain(error));
                Self { kind: network_kind(&what), doing, what: short(&what) }
            }
            SdkError::TimeoutError(_) => Self::new(S3ErrorKind::Unreachable, doing, "no answer in time"),
            SdkError::ResponseError(_) => Self::new(S3ErrorKind::Broken, doing, short(&chain(error))),
            other => {
                let what = chain(other);
                // The request could not be built: no region, or no credentials in the surroundings.
                let credentials = what.to_ascii_lowercase().contains("credential");
                let kind = if credentials { S3ErrorKind::BadCredentials } else { S3ErrorKind::Settings };
                Self::new(kind, doing, short(&what))
            }
        }
    }
}

fn service_kind(code: &str, status: u16) -> S3ErrorKind {
    match code {
        "NoSuchBucket" => S3ErrorKind::NoBucket,
        "NoSuchKey" | "NoSuchUpload" | "NotFound" => S3ErrorKind::NotFound,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired" => S3ErrorKind::BadCredentials,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "MethodNotAllowed" => {
            S3ErrorKind::AccessDenied
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            S3ErrorKind::WrongRegion
        }
        "RequestTimeTooSkewed" => S3ErrorKind::ClockSkew,
        "PreconditionFailed" | "ConditionalRequestConflict" => S3ErrorKind::Precondition,
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "XMinioAdminBucketQuotaExceeded" => {
            S3ErrorKind::Full
        }
        _ => match status {
            301 | 307 => S3ErrorKind::WrongRegion,
            403 | 405 => S3ErrorKind::AccessDenied,
            404 => S3ErrorKind::NotFound,
            409 | 412 => S3ErrorKind::Precondition,
            507 => S3ErrorKind::Full,
            429 | 500.. => S3ErrorKind::Broken,
            _ => S3ErrorKind::Refused,
        },
    }
}

fn network_kind(what: &str) -> S3ErrorKind {
    let lower = what.to_ascii_lowercase();
    if lower.contains("certificate") || lower.contains("unknownissuer") {
        S3ErrorKind::Untrusted
    } else if lower.contains("credential") {
        S3ErrorKind::BadCredentials
    } else {
        S3ErrorKind::Unreachable
    }
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// One line of bounded length: the text may come from anywhere.
fn short(text: &str) -> String {
    let line = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    line.take(400).collect()
}

/// What broke off a body.
pub(super) fn broken_body(doing: &str, error: &aws_sdk_s3::primitives::ByteStreamError) -> S3Error {
    let what = error.source().map_or_else(|| error.to_string(), chain);
    S3Error::new(S3ErrorKind::Broken, doing, short(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_errors_are_told_apart_and_say_what_to_do() {
        for (code, status, kind) in [
            ("NoSuchBucket", 404, S3ErrorKind::NoBucket),
            ("NoSuchKey", 404, S3ErrorKind::NotFound),
            ("SignatureDoesNotMatch", 403, S3ErrorKind::BadCredentials),
            ("AccessDenied", 403, S3ErrorKind::AccessDenied),
            ("PermanentRedirect", 301, S3ErrorKind::WrongRegion),
            ("QuotaExceeded", 400, S3ErrorKind::Full),
            ("SlowDown", 503, S3ErrorKind::Broken),
            ("", 403, S3ErrorKind::AccessDenied),
            ("Strange", 400, S3ErrorKind::Refused),
        ] {
            assert_eq!(service_kind(code, status), kind, "{code} {status}");
        }
        assert_eq!(network_kind("tls: invalid peer certificate: UnknownIssuer"), S3ErrorKind::Untrusted);
        assert_eq!(network_kind("connection refused"), S3ErrorKind::Unreachable);
        let error = S3Error::new(S3ErrorKind::NoBucket, "probe bucket kv", "NoSuchBucket (404)");
        assert_eq!(
            error.to_string(),
            "NoSuchBucket: probe bucket kv: NoSuchBucket (404): make the bucket, or correct its name"
        );
        assert_eq!(short("a\r\nb"), "a  b");
    }
}
