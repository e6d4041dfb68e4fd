//! The one error of this crate, shared by every broker.
//!
//! [`Error::message`] is written for the caller: what was wrong and what would be right.
//! [`std::error::Error::source`] is the inner cause, for the logs of the operator.

use std::borrow::Cow;
use std::fmt;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What kind of failure it was: what a caller decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A tenant, stream, channel, group or consumer name breaks the rules of names.
    InvalidName,
    /// Some other part of the call is malformed.
    InvalidRequest,
    /// An event, a batch or a message is larger than its limit.
    TooLarge,
    /// The name is written by APIX only.
    ReservedName,
    /// The call names another tenant than its credential does.
    TenantMismatch,
    /// The credential lacks the permission.
    PermissionDenied,
    /// There is no such thing, or it is another tenant's: the answer is the same.
    NotFound,
    /// The same idempotency key came with another body.
    IdempotencyConflict,
    /// The stream is not at the position, or has not the settings, that the call expects.
    Conflict,
    /// The delivery is no longer held by this consumer with this delivery count.
    LeaseLost,
    /// Several streams feed the channel, and a bare id does not say which is meant.
    SinceAmbiguous,
    /// The event may exist, but is not as safe as was asked for.
    DurabilityUnmet,
    /// The broker cannot be reached or cannot answer now; whether the call took effect is unknown.
    Unavailable,
    /// The disk or the memory of the broker is full. Nothing was stored.
    StorageFull,
    /// The broker, or its version, cannot do this.
    Unsupported,
    /// Stored data does not read back as it was written.
    Corrupt,
    /// A fault of APIX itself.
    Internal,
}

impl ErrorKind {
    /// The code that clients see.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidName => "invalid_name",
            Self::InvalidRequest => "invalid_request",
            Self::TooLarge => "too_large",
            Self::ReservedName => "reserved_name",
            Self::TenantMismatch => "tenant_mismatch",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::Conflict => "conflict",
            Self::LeaseLost => "lease_lost",
            Self::SinceAmbiguous => "since_ambiguous",
            Self::DurabilityUnmet => "durability_unmet",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage_full",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }

    /// Whether the same call may succeed later without being changed.
    ///
    /// A repeated append is safe with an idempotency key alone: after
    /// [`Unavailable`](Self::Unavailable) the first one may have taken effect.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Unavailable | Self::StorageFull | Self::DurabilityUnmet => true,
            Self::InvalidName
            | Self::InvalidRequest
            | Self::TooLarge
            | Self::ReservedName
            | Self::TenantMismatch
            | Self::PermissionDenied
            | Self::NotFound
            | Self::IdempotencyConflict
            | Self::Conflict
            | Self::LeaseLost
            | Self::SinceAmbiguous
            | Self::Unsupported
            | Self::Corrupt
            | Self::Internal => false,
        }
    }
}

/// A failure: its kind, a message for the caller and, where there is one, the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Source>,
}

impl Error {
    /// An error whose message says what was wrong and what would be right.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps the inner cause, which callers over the network do not see.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Shorthand for [`ErrorKind::InvalidRequest`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Shorthand for [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// What a caller decides by.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message for the caller, without the inner cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// See [`ErrorKind::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// The same failure for another of the callers that waited on it. The cause is kept as text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.message.clone(),
            source: self.source.as_ref().map(|source| source.to_string().into()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
