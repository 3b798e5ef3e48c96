//! A build's progress: one line after the other, or lines drawn anew with a timer per step.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;
use wharf_build::{Error, Progress, StepId};

use super::Style;

/// Lines of output shown below a step that runs.
const SHOWN_OUTPUT: usize = 5;
/// Lines of output told again when a step fails.
const KEPT_OUTPUT: usize = 40;
const TICK: Duration = Duration::from_millis(100);

/// Shows progress on standard error.
pub(super) struct Display {
    style: Style,
    shared: Arc<Shared>,
    painter: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    model: Mutex<Model>,
    over: Condvar,
}

struct Model {
    begun: Instant,
    steps: usize,
    done: usize,
    running: BTreeMap<StepId, Step>,
    /// Lines that stay, not printed yet.
    settled: Vec<Row>,
    /// How many lines the last drawing took.
    drawn: usize,
    is_over: bool,
    /// The output of the step that failed.
    failed: Option<Step>,
}

/// A line, with a time at its right edge where there is one.
struct Row {
    text: String,
    time: Option<Duration>,
}

impl Row {
    fn plain(text: String) -> Self {
        Self { text, time: None }
    }

    fn timed(text: String, time: Duration) -> Self {
        Self { text, time: Some(time) }
    }

    fn drawn(&self, width: usize) -> String {
        let Some(time) = self.time else { return fit(&self.text, width) };
        let time = format!(" {:.1}s", time.as_secs_f64());
        let room = width.saturating_sub(time.len());
        let text = fit(&self.text, room);
        let gap = room.saturating_sub(text.chars().count() + 1);
        format!("{text}{}{time}", " ".repeat(gap))
    }
}

struct Step {
    name: String,
    begun: Instant,
    output: VecDeque<String>,
}

impl Display {
    pub(super) fn new(style: Style) -> Self {
        let model = Model {
            begun: Instant::now(),
            steps: 0,
            done: 0,
            running: BTreeMap::new(),
            settled: Vec::new(),
            drawn: 0,
            is_over: false,
            failed: None,
        };
        let shared = Arc::new(Shared { model: Mutex::new(model), over: Condvar::new() });
        let painter = (style == Style::Tty).then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.paint())
        });
        Self { style, shared, painter: Mutex::new(painter) }
    }

    /// Takes news.
    pub(super) fn take(&self, progress: Progress) {
        let mut model = self.shared.model();
        if self.style == Style::Plain
            && let Some(lines) = model.plain(&progress)
        {
            eprintln!("{lines}");
        }
        model.take(progress);
    }

    /// Draws for the last time, and tells the output of what failed.
    pub(super) fn finish(&self, error: Option<&Error>) {
        let mut model = self.shared.model();
        model.is_over = true;
        drop(model);
        self.shared.over.notify_all();
        let painter = self.painter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(painter) = painter {
            let _ = painter.join();
        }
        let model = self.shared.model();
        // Plain lines have told it already.
        if let (Some(_), Some(step)) = (error, &model.failed)
            && self.style != Style::Plain
        {
            eprintln!("------\n > {}:", step.name);
            step.output.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("------");
        }
    }
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paint(&self) {
        let mut model = self.model();
        loop {
            let over = model.is_over;
            let picture = model.picture(over);
            let mut err = std::io::stderr().lock();
            // A terminal that is gone is no reason to end the build.
            let _ = err.write_all(picture.as_bytes()).and_then(|()| err.flush());
            if over {
                return;
            }
            drop(err);
            model = self.over.wait_timeout(model, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Model {
    /// The lines BuildKit's plain progress has.
    fn plain(&self, progress: &Progress) -> Option<String> {
        Some(match progress {
            Progress::Started { step, name } => format!("#{step} {name}"),
            Progress::Cached { step } => format!("#{step} CACHED"),
            Progress::Output { step, line, .. } => {
                let since = self.running.get(step).map_or(0.0, |step| step.begun.elapsed().as_secs_f64());
                format!("#{step} {since:.3} {line}")
            }
            Progress::Done { step, elapsed } => format!("#{step} DONE {:.1}s", elapsed.as_secs_f64()),
            Progress::Failed { step, error } => format!("#{step} ERROR: {error}"),
            Progress::Note { text } => text.clone(),
            Progress::Planned { .. } => return None,
        })
    }

    fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Planned { steps } => self.steps = steps,
            Progress::Started { step, name } => {
                self.running.insert(step, Step { name, begun: Instant::now(), output: VecDeque::new() });
            }
            Progress::Output { step, line, .. } => {
                if let Some(step) = self.running.get_mut(&step) {
                    step.output.push_back(line);
                    if step.output.len() > KEPT_OUTPUT {
                        step.output.pop_front();
                    }
                }
            }
            Progress::Cached { step } => {
                self.settle(step, |name| Row::timed(format!(" => CACHED {name}"), Duration::ZERO));
            }
            Progress::Done { step, elapsed } => {
                self.settle(step, |name| Row::timed(format!(" => {name}"), elapsed));
            }
            Progress::Failed { step, .. } => {
                self.failed = self.running.remove(&step);
                if let Some(step) = &self.failed {
                    self.settled.push(Row::timed(format!(" => ERROR {}", step.name), step.begun.elapsed()));
                }
            }
            Progress::Note { text } => self.settled.push(Row::plain(text)),
        }
    }

    fn settle(&mut self, step: StepId, row: impl FnOnce(&str) -> Row) {
        if let Some(step) = self.running.remove(&step) {
            self.done += 1;
            self.settled.push(row(&step.name));
        }
    }

    /// What to write: the cursor up over the last drawing, what stays, then what runs.
    fn picture(&mut self, over: bool) -> String {
        // Some terminals tell no size.
        let size = tcgetwinsize(std::io::stderr()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let width = size.map_or(80, |size| usize::from(size.ws_col)).max(20);
        let height = size.map_or(24, |size| usize::from(size.ws_row)).max(6);
        let mut live = Vec::new();
        if !over {
            for step in self.running.values() {
                live.push(Row::timed(format!(" => {}", step.name), step.begun.elapsed()));
                let first = step.output.len().saturating_sub(SHOWN_OUTPUT);
                let lines = step.output.iter().skip(first).map(|line| format!(" => => # {line}"));
                live.extend(lines.map(Row::plain));
            }
            // What does not fit would scroll away and could not be drawn over.
            live.truncate(height - 2);
        }
        let end = if over && self.failed.is_none() { " FINISHED" } else { "" };
        let count = format!("({}/{}){end}", self.done, self.steps);
        live.push(Row::plain(format!("[+] Building {:.1}s {count}", self.begun.elapsed().as_secs_f64())));
        let mut picture = String::new();
        if self.drawn > 0 {
            picture.push_str(&format!("\x1b[{}A", self.drawn));
        }
        picture.push_str("\r\x1b[J");
        for row in std::mem::take(&mut self.settled).iter().chain(&live) {
            picture.push_str(&row.drawn(width));
            picture.push('\n');
        }
        self.drawn = if over { 0 } else { live.len() };
        picture
    }
}

/// The line without control characters, cut to the terminal's width.
fn fit(line: &str, width: usize) -> String {
    line.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control())
        .take(width - 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_runs_and_keeps_what_is_done() {
        let display = Display::new(Style::Quiet);
        display.take(Progress::Planned { steps: 2 });
        display.take(Progress::Started { step: 1, name: "[1/2] FROM a".into() });
        display.take(Progress::Cached { step: 1 });
        display.take(Progress::Started { step: 2, name: "[2/2] RUN b".into() });
        for number in 0..9 {
            display.take(Progress::Output {
                step: 2,
                is_error: false,
                line: format!("line {number}\x1b[1m"),
            });
        }
        let mut model = display.shared.model();
        let first = model.picture(false);
        let lines: Vec<&str> = first.trim_start_matches("\r\x1b[J").lines().collect();
        assert!(lines[0].starts_with(" => CACHED [1/2] FROM a ") && lines[0].ends_with(" 0.0s"), "{first:?}");
        assert!(lines[1].starts_with(" => [2/2] RUN b ") && lines[1].ends_with(" 0.0s"), "{first:?}");
        // Times stand in one column.
        assert_eq!(lines[0].len(), lines[1].len());
        assert_eq!(lines[2], " => => # line 4[1m");
        assert!(first.contains("(1/2)"), "{first:?}");
        let second = model.picture(true);
        assert!(second.starts_with("\x1b[7A\r\x1b[J") && !second.contains("FROM"), "{second:?}");
    }
}
