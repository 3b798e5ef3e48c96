//! What a caller is told while a build runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::error::{Error, Result};

/// The number of a step, in the order of the Dockerfile, from one.
pub type StepId = usize;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The plan stands: this many steps.
    Planned {
        /// How many steps there are.
        steps: usize,
    },
    /// A step began.
    Started {
        /// Which.
        step: StepId,
        /// As people read it: `[stage 2/5] RUN make`.
        name: String,
    },
    /// A step's result was there already.
    Cached {
        /// Which.
        step: StepId,
    },
    /// A line of a step's output.
    Output {
        /// Which.
        step: StepId,
        /// Whether it came from the error stream.
        is_error: bool,
        /// The line without its end.
        line: String,
    },
    /// A step ended well.
    Done {
        /// Which.
        step: StepId,
        /// How long it took.
        elapsed: Duration,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: StepId,
        /// Why.
        error: String,
    },
    /// A remark, such as a build argument nobody uses.
    Note {
        /// What.
        text: String,
    },
}

/// Whoever listens to a build.
pub(crate) type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Ends a build from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// Ends a build when it is dropped: when nobody waits for it any more.
#[derive(Debug)]
pub struct CancelOnDrop(pub Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cancel {
    /// Asks the build to end soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}
