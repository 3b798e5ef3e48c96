//! `wharf build`: a Dockerfile to an image, with its progress on the terminal.

mod progress;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, poll};
use wharf_base::Hinted;
use wharf_build::{
    BuildRequest, BuildResult, Builder, Cancel, Context, DockerfileSource, ErrorKind, Place, Secret,
    dockerfile::Network,
};
use wharf_image::Store;
use wharf_runtime::{ShimRuntime, Signals};

use super::{Globals, containers::complain};
use progress::Display;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the image: NAME[:TAG]
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
    /// The Dockerfile, '-' for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a build argument: KEY=VALUE, or KEY to pass this environment's on
    #[arg(long, value_name = "K=V")]
    build_arg: Vec<String>,
    /// The stage to build, by name or number
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Run every step, whatever the cache knows
    #[arg(long)]
    no_cache: bool,
    /// Give RUN --mount=type=secret a secret: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Set a label of the image: KEY=VALUE
    #[arg(long, value_name = "K=V")]
    label: Vec<String>,
    /// Network of RUN steps: default (loopback only), none, host
    #[arg(long, default_value = "default")]
    network: String,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    progress: Style,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Print the result in this form: json
    #[arg(short, long, value_name = "FORM", value_parser = ["json"])]
    output: Option<String>,
    /// Folder of the files to copy, '-' for a tar stream on standard input
    context: PathBuf,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    /// As a terminal shows it best, or plain where there is none
    Auto,
    /// One line after the other
    Plain,
    /// Lines that are drawn anew
    Tty,
    /// Nothing but the image's id
    Quiet,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let request = self.request()?;
        // Before any thread is started, so that an interrupt ends the build's containers too.
        let signals = Signals::take_over(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
        cancel_on(signals, request.cancel.clone());
        let data = globals.data_dir()?;
        let images = Arc::new(Store::open(data.join("images"))?);
        let builder = Builder::open(images, data.join("build-cache"), Arc::new(ShimRuntime::default()))?;
        let display = Display::new(self.style());
        let result = builder.build(request, |progress| display.take(progress));
        display.finish(result.as_ref().err());
        match result {
            Ok(result) => self.print(&result),
            Err(error) => {
                let cancelled = error.kind == ErrorKind::Cancelled;
                // A place of another file, such as .dockerignore, is not one to look for in the Dockerfile.
                let own = error.file.as_deref().is_none_or(|file| !file.ends_with("dockerignore"));
                if let Some(place) = error.place.filter(|_| own && !cancelled) {
                    eprint!("{}", self.excerpt(place));
                }
                let error = match error.hint.clone() {
                    Some(hint) => Hinted::new(error, hint).into(),
                    None => anyhow::Error::from(error),
                };
                complain(&error);
                Ok(if cancelled { ExitCode::from(130) } else { ExitCode::FAILURE })
            }
        }
    }

    fn style(&self) -> Style {
        match self.progress {
            _ if self.quiet => Style::Quiet,
            Style::Auto if std::io::stderr().is_terminal() => Style::Tty,
            Style::Auto => Style::Plain,
            chosen => chosen,
        }
    }

    fn request(&self) -> anyhow::Result<BuildRequest> {
        let (context, file) = (self.context.as_path(), self.file.as_deref());
        let dash = Path::new("-");
        if context == dash && file == Some(dash) {
            bail!("the context and the Dockerfile cannot both come from standard input");
        }
        let mut request = BuildRequest::new(match context {
            context if context == dash => Context::tar(std::io::stdin()),
            folder => Context::Folder(folder.to_owned()),
        });
        request.dockerfile = match file {
            None => DockerfileSource::InContext("Dockerfile".into()),
            Some(file) if file == dash => {
                let mut text = String::new();
                std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
                DockerfileSource::Text(text)
            }
            Some(file) if context == dash => DockerfileSource::InContext(file.display().to_string()),
            Some(file) => DockerfileSource::File(file.to_owned()),
        };
        for tag in &self.tag {
            request.tags.push(tag.parse::<wharf_image::Reference>().map_err(|error| {
                let hint = error.hint().unwrap_or_default();
                Hinted::new(error, hint)
            })?);
        }
        request.args = self.build_args()?;
        request.labels = pairs("--label", &self.label)?;
        request.target = self.target.clone();
        request.no_cache = self.no_cache;
        for secret in &self.secret {
            let (id, secret) = parse_secret(secret)?;
            request.secrets.insert(id, secret);
        }
        request.network = match self.network.as_str() {
            "default" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => bail!("no such network for a build: {other}; use default, none or host"),
        };
        request.source_date_epoch = self.epoch(&request.args)?;
        Ok(request)
    }

    fn build_args(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut args = BTreeMap::new();
        for given in &self.build_arg {
            match given.split_once('=') {
                Some((name, value)) if !name.is_empty() => drop(args.insert(name.into(), value.into())),
                Some(_) => bail!("--build-arg {given} has no name"),
                // As docker: a name without value passes this environment's on, where it has one.
                None => args.extend(std::env::var(given).ok().map(|value| (given.clone(), value))),
            }
        }
        Ok(args)
    }

    fn epoch(&self, args: &BTreeMap<String, String>) -> anyhow::Result<Option<i64>> {
        let name = "SOURCE_DATE_EPOCH";
        let text =
            args.get(name).cloned().or_else(|| std::env::var(name).ok()).filter(|text| !text.is_empty());
        text.map(|text| text.parse().with_context(|| format!("{name}={text} is no number of seconds")))
            .transpose()
    }

    fn print(&self, result: &BuildResult) -> anyhow::Result<ExitCode> {
        if self.output.is_some() {
            let steps: Vec<_> = result
                .steps
                .iter()
                .map(|step| serde_json::json!({"name": step.name, "cached": step.cached, "seconds": step.elapsed.as_secs_f64()}))
                .collect();
            let value = serde_json::json!({
                "id": result.id, "digest": result.manifest.digest, "tags": self.tag, "steps": steps, "warnings": result.warnings,
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
        } else {
            println!("{}", result.id);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The lines of the Dockerfile about `place`; nothing when they cannot be read again.
    fn excerpt(&self, place: Place) -> String {
        let path = self.file.clone().unwrap_or_else(|| self.context.join("Dockerfile"));
        let Ok(text) = std::fs::read_to_string(&path) else { return String::new() };
        let shown = |number: usize| (place.line.saturating_sub(2)..=place.end + 2).contains(&number);
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let mut excerpt = format!("{}:{}\n{}\n", path.display(), place.line, "-".repeat(20));
        for (number, line) in lines.filter(|(number, _)| shown(*number)).take(40) {
            let mark = if (place.line..=place.end).contains(&number) { ">>>" } else { "   " };
            excerpt.push_str(&format!("{number:4} | {mark} {line}\n"));
        }
        format!("{excerpt}{}\n", "-".repeat(20))
    }
}

/// Signals that come together are one: a terminal and its shell may both send it.
const TOGETHER: Duration = Duration::from_millis(500);

/// Ends the build at the first signal; the second ends this process.
fn cancel_on(signals: Signals, cancel: Cancel) {
    std::thread::spawn(move || {
        let mut first: Option<Instant> = None;
        loop {
            let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
            while signals.next_signal().is_some() {
                cancel.cancel();
                if first.get_or_insert_with(Instant::now).elapsed() > TOGETHER {
                    std::process::exit(130);
                }
            }
        }
    });
}

/// `KEY=VALUE` settings.
fn pairs(flag: &str, given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("{flag} {text} is not KEY=VALUE"),
    };
    given.iter().map(pair).collect()
}

fn parse_secret(text: &str) -> anyhow::Result<(String, Secret)> {
    let wrong = |what: &str| {
        anyhow::Error::from(Hinted::new(
            format!("--secret {text} {what}"),
            "write id=ID,src=FILE or id=ID,env=NAME",
        ))
    };
    let (mut id, mut source, mut env) = (None, None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => source = Some(PathBuf::from(value)),
            Some(("env", value)) => env = Some(value.to_owned()),
            Some(("type", "file" | "env")) => {}
            _ => return Err(wrong(&format!("has '{field}', which is not known"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("has no id"))?;
    if let Some(path) = source {
        if !path.is_file() {
            return Err(wrong(&format!("names '{}', which is no file", path.display())));
        }
        return Ok((id, Secret::File(path)));
    }
    let name = env.unwrap_or_else(|| id.clone());
    match std::env::var(&name) {
        Ok(value) => Ok((id, Secret::Value(value.into_bytes()))),
        Err(_) => Err(wrong("has no src, and the environment has no variable of that name")),
    }
}
