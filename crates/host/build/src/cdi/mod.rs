//! Devices of this machine by the Container Device Interface (CDI specification, versions up to 1.0.0): what their makers
//! registered, which of it a name means, and what a step gets of it.

mod edits;
mod registry;

pub(crate) use edits::Granted;
pub(crate) use registry::{Registry, Request};
pub use registry::{SPEC_DIRS, registered_devices};
