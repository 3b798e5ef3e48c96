//! Dockerfile to build graph to image.

pub mod dockerfile;
mod error;

pub use error::{Error, ErrorKind, Place, Result};
