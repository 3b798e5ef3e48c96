//! Codecs: bytes of outside to value trees checked against the schema, and back.

mod json;
mod protobuf;
mod yaml;

pub use json::{Decoded, decode_json, decode_value, encode_json};
pub use protobuf::{
    Envelope, decode_envelope, decode_message, encode_envelope, encode_message, encode_watch_event, put_bytes,
};
pub use yaml::{value_to_yaml, yaml_to_value, yaml_to_values, yaml_with_duplicates};

/// Media types the API speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The `Content-Type` of answers in this format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Why bytes of outside are not an object of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not well-formed.
    #[error("{0}")]
    Syntax(String),
    /// Well-formed, but a value has the wrong type.
    #[error("{message}")]
    Type {
        /// In the words of Go's decoder, which clients know.
        message: String,
        /// In the words of server-side apply: `.spec.replicas: expected numeric (int or float), got string`.
        plain: String,
    },
    /// Larger or deeper than the limits.
    #[error("{0}")]
    Limit(String),
}
