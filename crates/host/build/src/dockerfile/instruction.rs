//! Logical lines to instructions.

use wharf_base::closest;
use wharf_image::Healthcheck;

use super::{
    lines::{self, Line},
    mount::parse_mount,
    words,
};
use crate::{
    cdi::Request,
    error::{Error, Place, Result},
};

/// One instruction and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Its lines.
    pub place: Place,
    /// The logical line as written, without heredocs.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says. Variables are not put in yet.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the instruction of its name")]
pub enum Kind {
    From(From),
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run(Run),
    Copy(Copy),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    StopSignal(String),
    Healthcheck(Healthcheck),
    OnBuild(String),
    Maintainer(String),
}

/// `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, stage or `scratch`.
    pub base: String,
    /// `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`.
    pub platform: Option<String>,
}

/// A command in shell or exec form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// Exec form: the words of a JSON array. In shell form there is one text.
    pub exec: bool,
    /// The words.
    pub args: Vec<String>,
    /// Heredocs of the line.
    pub heredocs: Vec<Heredoc>,
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Its name, which also ends it.
    pub name: String,
    /// Its lines.
    pub content: String,
    /// Whether variables are put into it: its name was not quoted.
    pub expand: bool,
    /// Whether leading tabs were taken away (`<<-`).
    pub chomp: bool,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// `--mount` values, variables not put in.
    pub mounts: Vec<String>,
    /// `--device` values.
    pub devices: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security=insecure`: with the rights of root of the machine.
    pub insecure: bool,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// What the build chooses.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The machine's.
    Host,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// `ADD`: archives of the context are unpacked.
    pub add: bool,
    /// Paths to copy.
    pub sources: Vec<String>,
    /// Heredocs to write as files.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub target: String,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `ADD --unpack`.
    pub unpack: Option<bool>,
    /// `ADD --checksum`, which only remote sources have.
    pub checksum: Option<String>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: bool,
}

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What is odd about a line that looks like the exec form and is not.
pub(super) fn exec_form_warning(line: &Line) -> Option<String> {
    let keyword = &line.keyword;
    let rest = match keyword.as_str() {
        "HEALTHCHECK" => line.rest.strip_prefix("CMD")?.trim_start(),
        "RUN" | "CMD" | "ENTRYPOINT" | "COPY" | "ADD" | "VOLUME" => &line.rest,
        _ => return None,
    };
    if !words::is_meant_as_json(rest) || words::json_array(rest).is_some() {
        return None;
    }
    let instead = match keyword.as_str() {
        "COPY" | "ADD" | "VOLUME" => "its words count as written, brackets and quotes too",
        _ => "the shell runs it as written",
    };
    Some(format!("{keyword} is no valid JSON array, so {instead}; put double quotes around every word"))
}

/// Reads one logical line.
pub(super) fn parse(line: Line, escape: char) -> Result<Instruction> {
    let (place, text) = (line.place, line.text.clone());
    let kind = kind_of(line, escape).map_err(|error| error.at(place))?;
    Ok(Instruction { place, text, kind })
}

fn kind_of(line: Line, escape: char) -> Result<Kind> {
    let keyword = line.keyword.clone();
    let Some(keyword) = KEYWORDS.iter().find(|known| **known == keyword) else {
        return Err(unknown(&keyword));
    };
    let mut flags = Flags { keyword, given: line.flags.clone() };
    if line.rest.is_empty() && !(matches!(*keyword, "RUN" | "CMD" | "ENTRYPOINT")) {
        let example = example_of(keyword);
        return Err(
            Error::invalid(format!("{keyword} requires an argument")).hint(format!("write {example}"))
        );
    }
    let kind = match *keyword {
        "FROM" => from(&line, &mut flags)?,
        "ARG" => Kind::Arg(arg(&line, escape)?),
        "ENV" => Kind::Env(pairs(&line, escape)?),
        "LABEL" => Kind::Label(pairs(&line, escape)?),
        "RUN" => run(&line, &mut flags)?,
        "COPY" | "ADD" => copy(&line, &mut flags)?,
        "WORKDIR" => Kind::Workdir(line.rest.clone()),
        "USER" => Kind::User(line.rest.clone()),
        "EXPOSE" => Kind::Expose(words::plain_words(&line.rest)),
        "VOLUME" => Kind::Volume(volumes(&line)?),
        "CMD" => Kind::Cmd(command(&line)?),
        "ENTRYPOINT" => Kind::Entrypoint(command(&line)?),
        "SHELL" => shell(&line)?,
        "STOPSIGNAL" => Kind::StopSignal(line.rest.clone()),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(&line, &mut flags)?),
        "ONBUILD" => Kind::OnBuild(on_build(&line, escape)?),
        _ => Kind::Maintainer(line.rest.clone()),
    };
    flags.finish()?;
    Ok(kind)
}

/// How an instruction is written.
fn example_of(keyword: &str) -> &'static str {
    match keyword {
        "FROM" => "FROM IMAGE, or FROM IMAGE AS NAME",
        "ARG" => "ARG NAME, or ARG NAME=default",
        "ENV" => "ENV NAME=value",
        "LABEL" => "LABEL NAME=value",
        "RUN" => "RUN COMMAND, such as RUN make",
        "COPY" => "COPY SOURCE… TARGET",
        "ADD" => "ADD SOURCE… TARGET",
        "WORKDIR" => "WORKDIR /path",
        "USER" => "USER NAME, or USER NUMBER:NUMBER",
        "EXPOSE" => "EXPOSE PORT, such as EXPOSE 8080",
        "VOLUME" => "VOLUME /data",
        "SHELL" => r#"SHELL ["/bin/sh", "-c"]"#,
        "STOPSIGNAL" => "STOPSIGNAL SIGTERM",
        "HEALTHCHECK" => "HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE",
        "ONBUILD" => "ONBUILD and another instruction, such as ONBUILD COPY . /app",
        _ => "LABEL org.opencontainers.image.authors=NAME",
    }
}

fn unknown(keyword: &str) -> Error {
    let shown: String = keyword.chars().take(60).collect();
    let hint = match closest(keyword, KEYWORDS) {
        Some(near) => format!("did you mean {near}?"),
        None if keyword == "INCLUDE" || keyword.starts_with('<') => {
            "write the file in Dockerfile syntax".into()
        }
        None => "a line that continues the one before needs a '\\' at that line's end".into(),
    };
    Error::invalid(format!("unknown instruction '{shown}'")).hint(hint)
}

/// The flags of one instruction; those nobody took are unknown.
struct Flags<'a> {
    keyword: &'a str,
    given: Vec<String>,
}

impl Flags<'_> {
    fn all(&mut self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut rest = Vec::new();
        for flag in self.given.drain(..) {
            match flag.strip_prefix("--").map(|flag| flag.split_once('=').unwrap_or((flag, ""))) {
                Some((given, value)) if given == name => {
                    found.push((value.to_owned(), flag.contains('=')));
                }
                _ => rest.push(flag),
            }
        }
        self.given = rest;
        if let Some((_, false)) = found.iter().find(|(_, has_value)| !has_value) {
            return Err(Error::invalid(format!("{} --{name} needs a value", self.keyword))
                .hint(format!("write --{name}=VALUE")));
        }
        Ok(found.into_iter().map(|(value, _)| value).collect())
    }

    fn one(&mut self, name: &str) -> Result<Option<String>> {
        let mut all = self.all(name)?;
        if all.len() > 1 {
            return Err(
                Error::invalid(format!("{} --{name} is given twice", self.keyword)).hint("keep one of them")
            );
        }
        Ok(all.pop())
    }

    fn switch(&mut self, name: &str) -> Result<Option<bool>> {
        let bare = format!("--{name}");
        for flag in &mut self.given {
            if *flag == bare {
                flag.push_str("=true");
            }
        }
        match self.one(name)?.map(|value| value.to_ascii_lowercase()).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                Err(Error::invalid(format!("{} --{name} is true or false, not '{other}'", self.keyword))
                    .hint(format!("write --{name}, or leave it out")))
            }
        }
    }

    fn finish(self) -> Result<()> {
        let Some(flag) = self.given.first() else { return Ok(()) };
        let name = flag.split('=').next().unwrap_or(flag);
        let known: &[&str] = match self.keyword {
            "FROM" => &["--platform"],
            "RUN" => &["--mount", "--network", "--security", "--device"],
            "COPY" => &["--from", "--chown", "--chmod", "--link", "--parents", "--exclude"],
            "ADD" => {
                &["--chown", "--chmod", "--link", "--exclude", "--checksum", "--unpack", "--keep-git-dir"]
            }
            "HEALTHCHECK" => &["--interval", "--timeout", "--start-period", "--start-interval", "--retries"],
            _ => &[],
        };
        let hint = match closest(name, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None if known.is_empty() => format!("{} takes no flags", self.keyword),
            None => format!("{} takes {}", self.keyword, known.join(", ")),
        };
        Err(Error::invalid(format!("{} does not know the flag '{name}'", self.keyword)).hint(hint))
    }
}

fn from(line: &Line, flags: &mut Flags<'_>) -> Result<Kind> {
    let platform = flags.one("platform")?;
    let words = words::plain_words(&line.rest);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(name.to_ascii_lowercase())),
        [] => return Err(Error::invalid("FROM requires an image").hint("write FROM IMAGE")),
        [base, rest @ ..] => {
            let name = rest.last().map_or("NAME", String::as_str);
            return Err(Error::invalid("FROM takes an image, or an image, AS and a name")
                .hint(format!("write FROM {base} AS {name}, or FROM {base}")));
        }
    };
    if let Some(name) = &name {
        let mut bytes = name.bytes();
        let fine = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if !fine {
            return Err(Error::invalid(format!("'{name}' cannot be the name of a stage"))
                .hint("begin with a letter, then letters, digits, '-', '_' and '.'"));
        }
    }
    Ok(Kind::From(From { base: base.clone(), name, platform }))
}

fn arg(line: &Line, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let words = words::quoted_words(&line.rest, escape);
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::invalid("ARG needs a name before '='").hint("write ARG NAME=default")),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word.clone(), None)),
    };
    words.iter().map(pair).collect()
}

fn pairs(line: &Line, escape: char) -> Result<Vec<(String, String)>> {
    let words = words::quoted_words(&line.rest, escape);
    let keyword = &line.keyword;
    // The old form: one name, and everything after it is the value.
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = line.rest.split_once(char::is_whitespace).ok_or_else(|| {
            Error::invalid(format!("{keyword} {} has no value", line.rest))
                .hint(format!("write {keyword} NAME=value"))
        })?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::invalid(format!("{keyword} needs a name before '='"))
            .hint(format!("write {keyword} NAME=value, without a blank before '='"))),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("{keyword} cannot read '{word}'"))
            .hint("write NAME=value, with quotes around a value that has blanks")),
    };
    words.iter().map(pair).collect()
}

/// The words of a JSON array; `None` when the line is no JSON array.
fn json(line: &str) -> Result<Option<Vec<String>>> {
    words::json_array(line).transpose().map_err(|()| {
        Error::invalid("the JSON array may hold texts only").hint("put quotes around each word")
    })
}

fn command(line: &Line) -> Result<Command> {
    let (exec, args) = match json(&line.rest)? {
        Some(args) => (true, args),
        None if line.rest.is_empty() => (false, Vec::new()),
        None => (false, vec![line.rest.clone()]),
    };
    Ok(Command { exec, args, heredocs: line.heredocs.clone() })
}

fn run(line: &Line, flags: &mut Flags<'_>) -> Result<Kind> {
    let mounts = flags.all("mount")?;
    for mount in &mounts {
        // What can be checked before variables are known.
        parse_mount(mount, None)?;
    }
    let devices = flags.all("device")?;
    for device in &devices {
        Request::parse(device)?;
    }
    let network = match flags.one("network")?.as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            return Err(Error::invalid(format!("RUN --network={other} is not known"))
                .hint("use default, none or host"));
        }
    };
    let insecure = match flags.one("security")?.as_deref() {
        None | Some("sandbox") => false,
        Some("insecure") => true,
        Some(other) => {
            return Err(Error::invalid(format!("RUN --security={other} is not known"))
                .hint("use sandbox or insecure"));
        }
    };
    let command = command(line)?;
    if command.args.is_empty() {
        return Err(Error::invalid("RUN requires a command").hint(format!("write {}", example_of("RUN"))));
    }
    Ok(Kind::Run(Run { command, mounts, devices, network, insecure }))
}

fn copy(line: &Line, flags: &mut Flags<'_>) -> Result<Kind> {
    let add = line.keyword == "ADD";
    let keyword = &line.keyword;
    let mut copy = Copy {
        add,
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        link: flags.switch("link")? == Some(true),
        exclude: flags.all("exclude")?,
        ..Copy::default()
    };
    if add {
        copy.unpack = flags.switch("unpack")?;
        copy.checksum = flags.one("checksum")?;
        copy.keep_git_dir = flags.switch("keep-git-dir")? == Some(true);
    } else {
        copy.from = flags.one("from")?;
        copy.parents = flags.switch("parents")? == Some(true);
    }
    let mut words = match json(&line.rest)? {
        Some(words) => words,
        None => words::plain_words(&line.rest),
    };
    copy.target = words.pop().unwrap_or_default();
    if words.is_empty() || copy.target.is_empty() {
        return Err(Error::invalid(format!("{keyword} requires a source and a target"))
            .hint(format!("write {keyword} SOURCE… TARGET")));
    }
    if lines::heredoc_word(&copy.target)?.is_some() {
        return Err(Error::invalid(format!("{keyword} cannot have a heredoc as target"))
            .hint(format!("write the target after it: {keyword} <<EOF /path")));
    }
    let mut heredocs = line.heredocs.iter();
    for word in words {
        match lines::heredoc_word(&word)? {
            Some(_) if !line.heredocs.is_empty() => copy.heredocs.extend(heredocs.next().cloned()),
            _ => copy.sources.push(word),
        }
    }
    if !copy.heredocs.is_empty() && copy.from.is_some() {
        return Err(Error::invalid("COPY --from cannot have a heredoc as source")
            .hint("leave --from out, or copy the heredoc in a line of its own"));
    }
    Ok(Kind::Copy(copy))
}

fn volumes(line: &Line) -> Result<Vec<String>> {
    let found = match json(&line.rest)? {
        Some(words) => words,
        None => words::plain_words(&line.rest),
    };
    if found.is_empty() || found.iter().any(|volume| volume.trim().is_empty()) {
        return Err(Error::invalid("VOLUME requires the path of a folder").hint("write VOLUME /data"));
    }
    Ok(found.iter().map(|volume| volume.trim().to_owned()).collect())
}

fn shell(line: &Line) -> Result<Kind> {
    match json(&line.rest)? {
        Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
        _ => Err(Error::invalid("SHELL requires a JSON array").hint(r#"write SHELL ["/bin/sh", "-c"]"#)),
    }
}

fn on_build(line: &Line, escape: char) -> Result<String> {
    let (keyword, _, _) = words::split_command(&line.rest, escape);
    if matches!(keyword.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
        let hint = match keyword.as_str() {
            "ONBUILD" => "write the instruction once, after one ONBUILD",
            "FROM" => "write FROM in the Dockerfile that builds on this image",
            _ => "use ONBUILD LABEL org.opencontainers.image.authors=…",
        };
        return Err(Error::invalid(format!("ONBUILD {keyword} is not allowed")).hint(hint));
    }
    if !KEYWORDS.contains(&keyword.as_str()) {
        return Err(unknown(&keyword));
    }
    let mut text = line.rest.clone();
    for heredoc in &line.heredocs {
        text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    Ok(text)
}

fn healthcheck(line: &Line, flags: &mut Flags<'_>) -> Result<Healthcheck> {
    let cut = line.rest.find(char::is_whitespace).unwrap_or(line.rest.len());
    let (kind, rest) = line.rest.split_at(cut);
    let rest = rest.trim();
    let mut check = Healthcheck::default();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => check.test = vec!["NONE".into()],
        "NONE" => {
            return Err(
                Error::invalid("HEALTHCHECK NONE takes no arguments").hint("write only HEALTHCHECK NONE")
            );
        }
        "CMD" => {
            check.test = match json(rest)? {
                Some(words) if !words.is_empty() => [vec!["CMD".into()], words].concat(),
                None if !rest.is_empty() => vec!["CMD-SHELL".into(), rest.into()],
                _ => {
                    return Err(Error::invalid("HEALTHCHECK CMD requires a command")
                        .hint(format!("write {}", example_of("HEALTHCHECK"))));
                }
            };
            check.interval = interval(flags, "interval")?;
            check.timeout = interval(flags, "timeout")?;
            check.start_period = interval(flags, "start-period")?;
            check.start_interval = interval(flags, "start-interval")?;
            if let Some(text) = flags.one("retries")? {
                check.retries = text.parse::<u16>().map(i64::from).map_err(|_| {
                    Error::invalid(format!("HEALTHCHECK --retries={text} is not a number of retries"))
                        .hint("write for example --retries=3")
                })?;
            }
        }
        other => {
            return Err(Error::invalid(format!("HEALTHCHECK {other} is not known"))
                .hint("write HEALTHCHECK CMD command, or HEALTHCHECK NONE"));
        }
    }
    Ok(check)
}

fn interval(flags: &mut Flags<'_>, name: &str) -> Result<i64> {
    let Some(text) = flags.one(name)? else { return Ok(0) };
    match duration(&text) {
        Some(nanos) if nanos == 0 || nanos >= 1_000_000 => Ok(nanos),
        Some(_) => Err(Error::invalid(format!("HEALTHCHECK --{name} is shorter than 1ms"))
            .hint("write it as 30s, 1m30s or 500ms")),
        None => Err(Error::invalid(format!("HEALTHCHECK --{name}={text} is not a duration"))
            .hint("write it as 30s, 1m30s or 500ms")),
    }
}

/// A duration as Go writes it, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * nanos;
        rest = after;
    }
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}
