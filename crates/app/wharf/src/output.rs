//! Standard output, with macros by the usual names: the usual ones panic when nobody reads it.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write as _},
    process::exit,
};

macro_rules! print {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes what a command has to tell. A reader that has gone, such as `head`, is no failure, and what the command does goes on; when it
/// cannot be written otherwise the program ends.
pub(crate) fn write(text: Arguments<'_>) {
    let mut out = io::stdout();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            // Nothing is left to tell it to.
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            exit(1);
        }
    }
}
