//! What a pull or push shows: one line per blob, redrawn on a terminal, told once elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use wharf_base::Digest;
use wharf_engineapi::client::{Progress, Step};

use super::human;

const REDRAW: Duration = Duration::from_millis(100);
const BAR: usize = 30;

/// Which way content goes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    In,
    Out,
}

/// Shows progress on standard error.
pub(super) struct Lines {
    way: Way,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: Vec<(Digest, Step)>,
    drawn: usize,
    at: Option<Instant>,
}

impl Lines {
    pub(super) fn new(way: Way, quiet: bool) -> Option<Self> {
        let terminal = std::io::stderr().is_terminal();
        (!quiet).then(|| Self { way, terminal, state: Mutex::default() })
    }

    fn words(&self, step: Step) -> String {
        match step {
            Step::Exists if self.way == Way::In => "Already exists".into(),
            Step::Exists => "Layer already exists".into(),
            Step::Mounted => "Mounted from another repository".into(),
            Step::Retry => "Retrying".into(),
            Step::Unpack => "Extracting".into(),
            Step::Done if self.way == Way::In => "Pull complete".into(),
            Step::Done => "Pushed".into(),
            Step::Transfer { done, total } => {
                let filled = (done.saturating_mul(BAR as u64) / total.max(1)) as usize;
                let filled = filled.min(BAR);
                let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
                let verb = if self.way == Way::In { "Downloading" } else { "Pushing" };
                format!("{verb} [{bar}] {}/{}", human(done), human(total))
            }
        }
    }

    fn draw(&self, state: &mut State) {
        let mut text = String::new();
        if state.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", state.drawn));
        }
        for (digest, step) in &state.blobs {
            text.push_str(&format!("\x1b[2K{}: {}\n", digest.short(), self.words(*step)));
        }
        state.drawn = state.blobs.len();
        state.at = Some(Instant::now());
        // Nobody may be looking any more; the transfer goes on.
        std::io::stderr().write_all(text.as_bytes()).ok();
    }
}

impl Progress for Lines {
    fn step(&self, digest: &Digest, step: Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let moving = matches!(step, Step::Transfer { .. });
        match state.blobs.iter_mut().find(|(known, _)| known == digest) {
            // A blob that was there and is then unpacked is still told as there.
            Some((_, before)) if *before == Step::Exists && step == Step::Done => return,
            Some((_, before)) => *before = step,
            None => state.blobs.push((*digest, step)),
        }
        if !self.terminal {
            if !moving {
                eprintln!("{}: {}", digest.short(), self.words(step));
            }
            return;
        }
        if !moving || state.at.is_none_or(|at| at.elapsed() >= REDRAW) {
            self.draw(&mut state);
        }
    }
}
