//! x
pub(crate) const OCI_VERSION: &str = "1.2.1";
