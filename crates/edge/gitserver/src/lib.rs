//! Git over smart HTTP.
//!
//! The system's `git http-backend` speaks the protocol; this room finds the repository, decides who may push, tells a
//! [`PushHook`] which references a push changed, and lets it talk to the terminal that pushed before the push ends
//! there. It knows no workflow, no run and no API object.

mod cgi;
mod repository;
mod server;
mod sideband;

pub use repository::{Checkout, Commit, GitError, Repositories, Repository, check_name};
pub use server::{Config, Follow, GitServer, Push, PushHook, RefChange, Terminal};
