//! What the reader sees: stages with their times, lines below them, and one line that moves.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Where nothing can be redrawn, the moving line is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Standard output, as a terminal or as plain lines.
pub(super) struct Screen {
    terminal: bool,
    colours: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The moving line is on the terminal.
    live: bool,
    told: Option<Instant>,
}

/// How a text looks on a terminal.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
}

impl Screen {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { terminal, colours, state: Mutex::default() }
    }

    /// The text in a style, where styles can be shown.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Good => 32,
            Style::Bad => 31,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        let mut state = self.state();
        let clear = self.clear(&mut state);
        // Nobody may be reading any more; the story goes on to its end.
        writeln!(std::io::stdout(), "{clear}{text}").ok();
    }

    /// A line below a stage.
    pub(super) fn detail(&self, text: &str) {
        self.say(&format!("    {text}"));
    }

    /// The moving line.
    pub(super) fn live(&self, text: &str) {
        let mut state = self.state();
        if self.terminal {
            let clear = self.clear(&mut state);
            let text = clip(&format!("    {text}"), width());
            write!(std::io::stdout(), "{clear}{}", self.paint(Style::Dim, &text)).ok();
            std::io::stdout().flush().ok();
            state.live = true;
        } else if state.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            state.told = Some(Instant::now());
            writeln!(std::io::stdout(), "    {text}").ok();
        }
    }

    fn clear(&self, state: &mut State) -> &'static str {
        if std::mem::take(&mut state.live) { "\r\x1b[2K" } else { "" }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// At most `width` characters.
fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A time as people say it.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        0.0..0.9995 => format!("{:.0} ms", seconds * 1000.0),
        0.0..99.95 => format!("{seconds:.1} s"),
        _ => format!("{:.0} s", seconds),
    }
}

/// Rows in columns as wide as they need, the last one free.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(wide).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        for (millis, text) in
            [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (61_240, "61.2 s"), (123_456, "123 s")]
        {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn long_lines_are_clipped() {
        assert_eq!(clip("four", 4), "four");
        assert_eq!(clip("weiße Möwe", 6), "weiße…");
    }

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [vec!["stage".to_owned(), "s".to_owned()], vec!["a".to_owned(), "12".to_owned()]];
        assert_eq!(columns(&rows), ["stage   s", "a       12"]);
    }
}
