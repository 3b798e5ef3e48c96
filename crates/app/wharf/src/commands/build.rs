//! `wharf build`: a Dockerfile to an image, with its progress on the terminal.

mod attest;
mod deliver;
mod fetch;
mod network;
mod options;
mod progress;
mod told;

use std::{
    collections::BTreeMap,
    io::{Cursor, IsTerminal, Read},
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
    BuildRequest, Builder, Cancel, Context, DockerfileSource, Pull, dockerfile::Network, is_archive,
    parse_platform,
};
use wharf_engineapi::client::{Client, Silent};
use wharf_image::{Platform, Reference, Store};
use wharf_runtime::{ShimRuntime, Signals};

use super::Globals;
use options::Output;
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
    /// Run every step of this stage, whatever the cache knows
    #[arg(long, value_name = "STAGE")]
    no_cache_filter: Vec<String>,
    /// Take results from a cache: type=local,src=DIR, type=registry,ref=IMAGE
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Write results to a cache: type=local,dest=DIR, type=registry,ref=IMAGE or type=inline, [mode=max]
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Ask registries for newer base images
    #[arg(long)]
    pull: bool,
    /// Files or an image by a name: NAME=FOLDER, NAME=docker-image://IMAGE, NAME=URL
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    /// The platforms of the image: OS/ARCHITECTURE[/VARIANT], several separated by ','
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// Attest how the image came to be: true, false, or mode=min|max, version=v1|v0.2, builder-id=…, reproducible=true
    #[arg(long, value_name = "PROVENANCE")]
    provenance: Option<String>,
    /// Attest which packages are in the image: true or false
    #[arg(long, value_name = "SBOM")]
    sbom: Option<String>,
    /// Attest something of the image: type=provenance[,mode=…] or type=sbom
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    /// Give RUN --mount=type=ssh an agent: default, or ID=SOCKET
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,
    /// Allow steps what could harm this machine: security.insecure, network.host, device, device=NAME
    #[arg(long, value_name = "RIGHT")]
    allow: Vec<String>,
    /// A name steps know the address of: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Size of /dev/shm of steps
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Give RUN --mount=type=secret a secret: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Set a label of the image: KEY=VALUE
    #[arg(long, value_name = "K=V")]
    label: Vec<String>,
    /// Annotate the image's manifest: KEY=VALUE
    #[arg(long, value_name = "K=V")]
    annotation: Vec<String>,
    /// Network of RUN steps: default (that of containers), none, host
    #[arg(long, default_value = "default")]
    network: String,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    progress: Style,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Check the Dockerfile and build nothing
    #[arg(long)]
    check: bool,
    /// Where the result goes: a folder, '-' for a tar stream, type=image|oci|docker|tar|local[,dest=PATH]
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,
    /// Push the image to its registry
    #[arg(long)]
    push: bool,
    /// Keep the image in the store; this is so anyway where no output is named
    #[arg(long)]
    load: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Folder of the files to copy; '-' for a tar stream or a Dockerfile on standard input; a URL
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
        let outputs = self.outputs()?;
        let request = self.request(&outputs)?;
        let data = globals.data_dir()?;
        let images = Arc::new(Store::open(data.join("images"))?);
        let builder = reaching(&data, images)?;
        let steps = steps_of(&data);
        if self.check {
            return Ok(told::check(&self, &builder, request));
        }
        // Without root there is no network to make; a step that needs one says so itself.
        let builder = match self.network == "default" {
            true => builder.with_network(steps.clone()),
            false => builder,
        };
        // Before any thread is started, so that an interrupt ends the build's containers too.
        let signals = Signals::take_over(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
        cancel_on(signals, request.cancel.clone());
        let (epoch, caches) = (request.source_date_epoch, request.cache_to.clone());
        let display = Display::new(self.style());
        let result = builder.build(request, |progress| display.take(progress));
        display.finish(result.as_ref().err());
        steps.finish();
        match result {
            Ok(result) => {
                deliver::caches(builder.images(), &caches)?;
                deliver::all(&self, &builder, &outputs, &result, epoch)
            }
            Err(error) => Ok(told::failure(&self, error)),
        }
    }

    fn outputs(&self) -> anyhow::Result<Vec<Output>> {
        let mut outputs = self.output.iter().map(|text| text.parse()).collect::<anyhow::Result<Vec<_>>>()?;
        if outputs.is_empty() || self.push || self.load {
            outputs.push(Output::Image { names: Vec::new(), push: self.push, as_image: false });
        }
        let to_stdout =
            |output: &&Output| matches!(output, Output::Tar(None) | Output::Archive { dest: None, .. });
        let streams = outputs.iter().filter(to_stdout).count();
        if streams > 1 {
            bail!("only one output can go to standard output");
        }
        if streams == 1 && std::io::stdout().is_terminal() {
            bail!(Hinted::new(
                "an archive is not for a terminal",
                "name a file with dest=FILE, or redirect the output"
            ));
        }
        Ok(outputs)
    }

    fn style(&self) -> Style {
        match self.progress {
            _ if self.quiet => Style::Quiet,
            Style::Auto if std::io::stderr().is_terminal() => Style::Tty,
            Style::Auto => Style::Plain,
            chosen => chosen,
        }
    }

    fn request(&self, outputs: &[Output]) -> anyhow::Result<BuildRequest> {
        let mut request = BuildRequest::new(Context::Empty);
        self.sources(&mut request)?;
        // Names are given in the store only where the store is an output.
        for output in outputs {
            let Output::Image { names, .. } = output else { continue };
            let names = self.tag.iter().chain(names).map(|name| reference(name));
            request.tags.extend(names.collect::<anyhow::Result<Vec<_>>>()?);
        }
        request.args = self.build_args()?;
        request.labels = pairs("--label", &self.label)?;
        request.annotations = pairs("--annotation", &self.annotation)?;
        request.target = self.target.clone();
        request.no_cache = self.no_cache;
        request.no_cache_stages =
            self.no_cache_filter.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
        request.pull = self.pull;
        request.cache_from =
            self.cache_from.iter().map(|text| options::cache_from(text)).collect::<Result<_, _>>()?;
        for text in &self.cache_to {
            match options::cache_to(text)? {
                Some(target) => request.cache_to.push(target),
                None => request.cache_inline = true,
            }
        }
        request.secrets = self.secret.iter().map(|text| options::secret(text)).collect::<Result<_, _>>()?;
        request.ssh = self.ssh.iter().map(|text| options::ssh(text)).collect::<Result<_, _>>()?;
        request.contexts =
            self.build_context.iter().map(|text| options::context(text)).collect::<Result<_, _>>()?;
        request.hosts = self.add_host.iter().map(|text| options::host(text)).collect::<Result<_, _>>()?;
        request.shm_bytes = self.shm_size.as_deref().map(options::size).transpose()?;
        request.allowed = options::allowed(&self.allow)?;
        request.network = match self.network.as_str() {
            "default" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => bail!("no such network for a build: {other}; use default, none or host"),
        };
        request.platforms = self.platforms()?;
        request.attestations = attest::wanted(self, outputs)?;
        request.source_date_epoch = self.epoch(&request.args)?;
        Ok(request)
    }

    /// The context and the Dockerfile.
    fn sources(&self, request: &mut BuildRequest) -> anyhow::Result<()> {
        let (context, file) = (self.context.as_path(), self.file.as_deref());
        let dash = Path::new("-");
        if context == dash && file == Some(dash) {
            bail!("the context and the Dockerfile cannot both come from standard input");
        }
        let address = context.to_str().filter(|text| options::is_address(text));
        let inside = context == dash || address.is_some();
        request.dockerfile = match file {
            None => DockerfileSource::InContext("Dockerfile".into()),
            Some(file) if file == dash => DockerfileSource::Text(text_of(std::io::stdin())?),
            Some(file) if inside => DockerfileSource::InContext(file.display().to_string()),
            Some(file) => DockerfileSource::File(file.to_owned()),
        };
        request.context = match address {
            Some(url) => Context::Remote(url.to_owned()),
            None if context != dash => Context::Folder(context.to_owned()),
            None => {
                let mut head = Vec::new();
                std::io::stdin().take(512).read_to_end(&mut head)?;
                let is_context = is_archive(&head) || file.is_some();
                let all = Cursor::new(head).chain(std::io::stdin());
                if is_context {
                    Context::tar(all)
                } else {
                    request.dockerfile = DockerfileSource::Text(text_of(all)?);
                    Context::Empty
                }
            }
        };
        Ok(())
    }

    fn platforms(&self) -> anyhow::Result<Vec<Platform>> {
        let read = |text: &String| {
            parse_platform(text).map_err(|error| {
                let hint = error.hint.clone().unwrap_or_default();
                Hinted::new(format!("--platform: {error}"), hint).into()
            })
        };
        self.platform.iter().map(read).collect()
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
}

/// A text of at most a Dockerfile's size.
fn text_of(input: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(1 << 20).read_to_string(&mut text).context("the Dockerfile on standard input is no text")?;
    Ok(text)
}

fn reference(name: &str) -> anyhow::Result<Reference> {
    name.parse::<Reference>().map_err(|error| {
        let hint = error.hint().unwrap_or_default();
        Hinted::new(error, hint).into()
    })
}

/// A builder of `data` that reaches what lies elsewhere: registries, web servers, repositories.
fn reaching(data: &Path, images: Arc<Store>) -> anyhow::Result<Builder> {
    let builder = Builder::open(images.clone(), data.join("build-cache"), Arc::new(ShimRuntime::default()))?;
    Ok(builder.with_pull(puller(images)).with_fetch(fetch::fetcher()).with_bill(attest::bill()))
}

/// As [`reaching`], and its steps have the network of containers. What they leave is [`release_steps`]'s to take back.
pub(crate) fn builder(data: &Path, images: Arc<Store>) -> anyhow::Result<Builder> {
    Ok(reaching(data, images)?.with_network(steps_of(data)))
}

fn steps_of(data: &Path) -> Arc<network::Steps> {
    Arc::new(network::Steps::new(super::containers::engine(data)))
}

/// Takes back the addresses of steps that are over.
pub(crate) fn release_steps(data: &Path) {
    steps_of(data).finish();
}

/// Brings base images from registries.
fn puller(images: Arc<Store>) -> Pull {
    Arc::new(move |name, platform| {
        let work = || -> anyhow::Result<()> {
            let client = Client::of_user();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime
                .block_on(client.pull_for(&images, name, platform, &Silent))
                .map_err(super::image::hinted)?;
            Ok(())
        };
        let hint = "pull it with `wharf image pull`, or make one with `wharf image pack`";
        work().map_err(|error| Hinted::new(format!("{error:#}"), hint))
    })
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
