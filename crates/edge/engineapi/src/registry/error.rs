//! The error codes of the distribution specification.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use wharf_http::{Body, full};

/// Why a request fails, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    RangeInvalid,
    TagInvalid,
    Denied,
    Unauthorized,
    Unsupported,
    TooManyRequests,
    PaginationInvalid,
    NotFound,
    StorageFull,
    Internal,
}

impl Code {
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::BlobUploadInvalid => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::BlobUploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestBlobUnknown => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::SizeInvalid => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::RangeInvalid => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
            Self::TagInvalid => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Self::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::PaginationInvalid => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
            Self::NotFound => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            Self::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }
}

/// One error as the response tells it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let (status, code) = self.code.parts();
        if status.is_server_error() {
            tracing::warn!(message = self.message, "registry request failed");
        }
        let body = json!({"errors": [{"code": code, "message": self.message, "detail": null}]});
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Failures of the store that no request is to blame for; what a request can cause is told apart before.
impl From<wharf_image::Error> for Failure {
    fn from(error: wharf_image::Error) -> Self {
        use wharf_image::Error;
        let code = match &error {
            Error::NoBlob(_) => Code::BlobUnknown,
            Error::NoImage { .. } => Code::ManifestUnknown,
            Error::Mismatch { .. } => Code::DigestInvalid,
            Error::Reference { .. } => Code::NameInvalid,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::StorageFull,
            _ => Code::Internal,
        };
        let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
        Self::new(code, format!("{error}{cause}"))
    }
}
