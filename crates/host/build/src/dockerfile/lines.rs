//! Physical lines to logical ones: directives, comments, continuations, heredocs.

use std::collections::BTreeMap;

use super::{
    instruction::Heredoc,
    substitute::{Expander, Quotes},
    words,
};
use crate::error::{Error, Place, Result};

/// The largest Dockerfile read.
const MAX_FILE: usize = 1 << 20;
/// The longest logical line, the same as Docker's scanner allows.
const MAX_LINE: usize = 64 << 10;
const MAX_INSTRUCTIONS: usize = 10_000;

/// One instruction as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) place: Place,
    /// The instruction in capitals.
    pub(super) keyword: String,
    /// `--name=value` before the arguments.
    pub(super) flags: Vec<String>,
    /// The arguments.
    pub(super) rest: String,
    /// The whole logical line without heredocs.
    pub(super) text: String,
    pub(super) heredocs: Vec<Heredoc>,
}

/// What the comments right above an instruction say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Above {
    /// The value of `# check=` for this instruction alone.
    pub(crate) check: Option<String>,
    /// The first word of the last comment: the name of what it describes, if it describes something.
    pub(crate) described: Option<String>,
}

/// A Dockerfile cut into logical lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) escape: char,
    /// The value of `# syntax=`, which chooses a front end elsewhere and nothing here.
    pub(super) syntax: Option<String>,
    /// The value of `# check=`.
    pub(super) check: Option<String>,
    /// Comments right above an instruction, by the instruction's first line.
    pub(super) comments: BTreeMap<usize, Above>,
    /// Lines that are blank in the middle of a continued instruction.
    pub(super) empty_continuations: Vec<Place>,
}

pub(super) fn split(text: &str) -> Result<Lines> {
    if text.len() > MAX_FILE {
        return Err(Error::invalid(format!("the Dockerfile is larger than {MAX_FILE} bytes"))
            .hint("move scripts and data into files of their own and COPY them"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(at) = text.find('\0') {
        let line = 1 + text[..at].matches('\n').count();
        return Err(Error::invalid("there is a NUL byte in this line")
            .hint("save the Dockerfile as UTF-8 text: this is another encoding, or no text")
            .at(Place { line, end: line }));
    }
    let mut cutter = Cutter {
        source: text.split_inclusive('\n').collect(),
        at: 0,
        out: Lines { escape: '\\', ..Lines::default() },
    };
    cutter.directives()?;
    while let Some(line) = cutter.next_line()? {
        if cutter.out.lines.len() == MAX_INSTRUCTIONS {
            return Err(Error::invalid(format!("there are more than {MAX_INSTRUCTIONS} instructions"))
                .hint("join commands in one RUN, or split the file into images that build on one another")
                .at(line.place));
        }
        cutter.out.lines.push(line);
    }
    if cutter.out.lines.is_empty() {
        return Err(Error::invalid("the file has no instructions").hint("begin it with FROM"));
    }
    Ok(cutter.out)
}

struct Cutter<'a> {
    source: Vec<&'a str>,
    at: usize,
    out: Lines,
}

impl Cutter<'_> {
    /// Directives are comments of the form `# name=value` before everything else.
    fn directives(&mut self) -> Result<()> {
        let mut seen = Vec::new();
        let mut at = 0;
        while let Some(line) = self.source.get(at) {
            let place = Place { line: at + 1, end: at + 1 };
            let Some((name, value)) = directive(line) else { break };
            if seen.contains(&name) {
                return Err(Error::invalid(format!("the directive '{name}' is given twice"))
                    .hint("keep one of them")
                    .at(place));
            }
            match (name.as_str(), value.as_str()) {
                ("escape", "\\" | "`") => self.out.escape = value.chars().next().unwrap_or('\\'),
                ("escape", other) => {
                    return Err(Error::invalid(format!("'{other}' cannot be the escape character"))
                        .hint("write '# escape=\\' or '# escape=`'")
                        .at(place));
                }
                ("syntax", _) => self.out.syntax = Some(value),
                ("check", _) => self.out.check = Some(value),
                _ => {}
            }
            seen.push(name);
            at += 1;
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<Line>> {
        let mut above: Option<Above> = None;
        let (start, mut text) = loop {
            let Some(raw) = self.source.get(self.at) else { return Ok(None) };
            self.at += 1;
            let line = trim_newline(raw).trim_start();
            match line.strip_prefix('#') {
                Some(comment) => above.get_or_insert_default().read(line, comment),
                // A blank line takes what is above away from what is below.
                None if line.is_empty() => above = None,
                None => {}
            }
            if !line.is_empty() && !line.starts_with('#') {
                let (kept, goes_on) = self.continuation(line);
                if goes_on || !kept.is_empty() {
                    break (self.at, (kept.to_owned(), goes_on));
                }
            }
        };
        if let Some(above) = above {
            self.out.comments.insert(start, above);
        }
        let mut has_empty = false;
        while text.1 {
            let Some(raw) = self.source.get(self.at) else { break };
            self.at += 1;
            let line = trim_newline(raw);
            let bare = line.trim_start();
            if bare.starts_with('#') {
                continue;
            }
            if bare.is_empty() {
                has_empty = true;
                continue;
            }
            let (kept, goes_on) = self.continuation(line);
            text.0.push_str(kept);
            text.1 = goes_on;
            if text.0.len() > MAX_LINE {
                let place = Place { line: start, end: self.at };
                return Err(Error::invalid(format!("an instruction is longer than {MAX_LINE} bytes"))
                    .hint("put the commands into a script and COPY it")
                    .at(place));
            }
        }
        let text = text.0;
        if has_empty {
            self.out.empty_continuations.push(Place { line: start, end: self.at });
        }
        if text.trim().is_empty() {
            // A file that ends with a lone continuation character.
            return if self.at >= self.source.len() { Ok(None) } else { self.next_line() };
        }
        self.line_of(start, text).map(Some)
    }

    /// The line without its continuation character, and whether it had one. A doubled one is not one.
    fn continuation<'t>(&self, line: &'t str) -> (&'t str, bool) {
        let bare = line.trim_end_matches([' ', '\t']);
        match bare.strip_suffix(self.out.escape) {
            Some(kept) if !kept.ends_with(self.out.escape) => (kept, true),
            _ => (line, false),
        }
    }

    fn line_of(&mut self, start: usize, text: String) -> Result<Line> {
        let mut place = Place { line: start, end: self.at };
        let escape = self.out.escape;
        let (keyword, flags, rest) = words::split_command(&text, escape);
        let mut heredocs = Vec::new();
        if text.contains("<<") && can_have_heredoc(&keyword, &rest, escape) {
            heredocs = heredocs_of(&text).map_err(|e| e.at(place))?;
            for heredoc in &mut heredocs {
                heredoc.content = self.heredoc_content(heredoc, place)?;
            }
        }
        place.end = self.at;
        Ok(Line { place, keyword, flags, rest, text: text.trim().to_owned(), heredocs })
    }

    fn heredoc_content(&mut self, heredoc: &Heredoc, place: Place) -> Result<String> {
        let mut content = String::new();
        while let Some(raw) = self.source.get(self.at) {
            self.at += 1;
            let line = trim_newline(raw);
            let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
            if line == heredoc.name {
                return Ok(content);
            }
            content.push_str(if heredoc.chomp { raw.trim_start_matches('\t') } else { raw });
        }
        Err(Error::invalid(format!("the heredoc '<<{}' does not end", heredoc.name))
            .hint(format!("end it with a line that holds only '{}'", heredoc.name))
            .at(place))
    }
}

impl Above {
    fn read(&mut self, line: &str, comment: &str) {
        self.described = comment.split_whitespace().next().map(str::to_owned);
        if let Some((_, value)) = directive(line).filter(|(name, _)| name == "check") {
            // What follows a blank is a remark.
            let value = value.split(' ').next().map(str::to_owned);
            self.check = self.check.take().or(value);
        }
    }
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\n', '\r'])
}

fn directive(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let known = matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty();
    known.then(|| (name, value.to_owned()))
}

fn can_have_heredoc(keyword: &str, rest: &str, escape: char) -> bool {
    match keyword {
        "ADD" | "COPY" | "RUN" => words::json_array(rest).is_none_or(|parsed| parsed.is_err()),
        "ONBUILD" => {
            let (keyword, _, rest) = words::split_command(rest, escape);
            keyword != "ONBUILD" && can_have_heredoc(&keyword, &rest, escape)
        }
        _ => false,
    }
}

/// The heredocs announced in a line, still without content.
fn heredocs_of(line: &str) -> Result<Vec<Heredoc>> {
    let raw = Expander { escape: '\\', quotes: Quotes::Raw, raw_escapes: true, keep_unset: true };
    // An unbalanced quote is the shell's business, not a heredoc.
    let Ok(words) = raw.words(line, &|_| None) else { return Ok(Vec::new()) };
    words.iter().filter_map(|word| heredoc_word(word).transpose()).collect()
}

/// Reads `[FD]<<[-]NAME`.
pub(super) fn heredoc_word(word: &str) -> Result<Option<Heredoc>> {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = digits.strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let lex = |quotes| {
        let expander = Expander { escape: '\\', quotes, raw_escapes: false, keep_unset: true };
        expander.words(rest, &|_| None)
    };
    let plain = lex(Quotes::Removed)?;
    let [name] = plain.as_slice() else { return Ok(None) };
    // Quotes anywhere in the word mean that nothing in the content is expanded.
    let expand = lex(Quotes::Raw)?.first() == Some(name);
    Ok(Some(Heredoc { name: name.clone(), content: String::new(), expand, chomp }))
}
