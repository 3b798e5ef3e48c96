//! `wharf events`: what happens to containers of `wharf run`, as it happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use serde_json::json;
use wharf_base::{Clock as _, ContainerId, Hinted, SystemClock, Timestamp};
use wharf_runtime::{Event, Exit, Phase, PodDir, Runtime, SandboxConfig, ShimRuntime};

use super::{
    Globals,
    containers::{Containers, IMAGE, MAIN, NAME},
    platform::Form,
};

/// Between two looks for new containers. Making one takes longer.
const TICK: Duration = Duration::from_millis(20);
/// Between two tries to reach the shim of a container that is being made, and how long it is waited for.
const RETRY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what fits: container=NAME or ID, image=NAME, event=start|oom|die|destroy
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Another form of output, one document per line
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// Something that happened to a container.
#[derive(Debug, Clone)]
struct News {
    at: Timestamp,
    id: ContainerId,
    /// In docker's words.
    action: &'static str,
    name: String,
    image: String,
    exit_code: Option<i32>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let filters = filters(&self.filter)?;
        let containers = Containers::open(globals)?;
        let (tell, news) = channel();
        let mut known = BTreeMap::new();
        // What happened before is not told.
        for container in containers.all()? {
            let about = About::of(&container.id, &container.config);
            if container.is_running() {
                let (folder, about, tell) = (container.dir.path().to_owned(), about.clone(), tell.clone());
                std::thread::spawn(move || follow(&PodDir::at(folder), &about, true, &tell));
            }
            known.insert(container.id, Some(about));
        }
        loop {
            look(&containers, &mut known, &tell)?;
            for news in arrived(&news) {
                if !filters.iter().all(|filter| filter.fits(&news)) {
                    continue;
                }
                let mut out = std::io::stdout().lock();
                if writeln!(out, "{}", self.line(&news)).and_then(|()| out.flush()).is_err() {
                    // A reader that went away has seen enough.
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }

    fn line(&self, news: &News) -> String {
        if matches!(self.output, Some(Form::Json | Form::Yaml)) {
            let start = if self.output == Some(Form::Yaml) { "- " } else { "" };
            // JSON is YAML.
            return format!("{start}{}", facts(news));
        }
        let code = news.exit_code.map_or(String::new(), |code| format!("exitCode={code}, "));
        let (at, id) = (news.at.to_nano(), &news.id);
        format!("{at} container {} {id} ({code}image={}, name={})", news.action, news.image, news.name)
    }
}

fn facts(news: &News) -> serde_json::Value {
    json!({
        "time": news.at.to_nano(), "type": "container", "action": news.action, "id": news.id,
        "name": news.name, "image": news.image, "exitCode": news.exit_code,
    })
}

/// All that is there, or what comes within a tick.
fn arrived(news: &Receiver<News>) -> Vec<News> {
    match news.recv_timeout(TICK) {
        Ok(first) => std::iter::once(first).chain(news.try_iter()).collect(),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Vec::new(),
    }
}

/// Follows containers that are new, and tells of those that are gone.
fn look(
    containers: &Containers,
    known: &mut BTreeMap<ContainerId, Option<About>>,
    tell: &Sender<News>,
) -> anyhow::Result<()> {
    let there: BTreeSet<ContainerId> = containers.ids()?.into_iter().collect();
    for id in &there {
        if !known.contains_key(id) {
            known.insert(id.clone(), None);
            let (folder, id, tell) = (containers.folder(id), id.clone(), tell.clone());
            std::thread::spawn(move || follow_new(folder, &id, &tell));
        }
        if let Some(about @ None) = known.get_mut(id) {
            *about = PodDir::at(containers.folder(id)).config().ok().map(|config| About::of(id, &config));
        }
    }
    let gone: Vec<ContainerId> = known.keys().filter(|id| !there.contains(id)).cloned().collect();
    for id in gone {
        if let Some(about) = known.remove(&id).flatten() {
            about.tell(tell, "destroy", SystemClock.now(), None);
        }
    }
    Ok(())
}

/// Who a container is.
#[derive(Clone)]
struct About {
    id: ContainerId,
    name: String,
    image: String,
}

impl About {
    fn of(id: &ContainerId, config: &SandboxConfig) -> Self {
        let label = |name: &str| config.labels.get(name).cloned().unwrap_or_default();
        Self { id: id.clone(), name: label(NAME), image: label(IMAGE) }
    }

    fn tell(&self, tell: &Sender<News>, action: &'static str, at: Timestamp, exit_code: Option<i32>) {
        let Self { id, name, image } = self.clone();
        // Nobody listens at the end.
        let _ = tell.send(News { at, id, action, name, image, exit_code });
    }

    fn tell_end(&self, tell: &Sender<News>, exit: &Exit) {
        if exit.oom_killed {
            self.tell(tell, "oom", exit.finished_at, None);
        }
        self.tell(tell, "die", exit.finished_at, Some(exit.code));
    }
}

/// Follows a container that is being made.
fn follow_new(folder: PathBuf, id: &ContainerId, tell: &Sender<News>) {
    let dir = PodDir::at(folder);
    let deadline = Instant::now() + PATIENCE;
    while dir.path().exists() && Instant::now() < deadline {
        if let Ok(config) = dir.config()
            && (dir.has_shim() || dir.status(MAIN).is_ok())
        {
            let about = About::of(id, &config);
            if follow(&dir, &about, false, tell) {
                return;
            }
        }
        std::thread::sleep(RETRY);
    }
}

/// Tells of a container until it ends; false when its shim cannot be reached yet.
fn follow(dir: &PodDir, about: &About, mut started: bool, tell: &Sender<News>) -> bool {
    let start = |started: &mut bool, at: Option<Timestamp>| {
        if !std::mem::replace(started, true) {
            about.tell(tell, "start", at.unwrap_or_else(|| SystemClock.now()), None);
        }
    };
    // The shim goes when nobody is connected: only the events stay so.
    let events = ShimRuntime::default().open(dir.path()).and_then(|sandbox| sandbox.events());
    let Ok(mut events) = events else {
        let Ok(status) = dir.status(MAIN) else { return false };
        let Some(exit) = status.exit.filter(|_| status.phase == Phase::Exited) else { return false };
        start(&mut started, status.started_at);
        about.tell_end(tell, &exit);
        return true;
    };
    // It may have been started, and have ended, before.
    if let Ok(status) = dir.status(MAIN)
        && status.started_at.is_some()
    {
        start(&mut started, status.started_at);
        if let Some(exit) = status.exit {
            about.tell_end(tell, &exit);
            return true;
        }
    }
    while let Ok(Some(event)) = events.wait() {
        match event {
            Event::Started { .. } => start(&mut started, None),
            Event::Exited { exit, .. } => {
                start(&mut started, None);
                about.tell_end(tell, &exit);
                break;
            }
        }
    }
    true
}

/// A condition on news.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Container(String),
    Image(String),
    Event(String),
}

impl Filter {
    fn fits(&self, news: &News) -> bool {
        match self {
            Self::Container(wanted) => news.name == *wanted || news.id.as_str().starts_with(wanted.as_str()),
            Self::Image(wanted) => news.image == *wanted,
            Self::Event(wanted) => news.action == wanted,
        }
    }
}

fn filters(given: &[String]) -> Result<Vec<Filter>, Hinted> {
    let read = |text: &String| match text.split_once('=') {
        Some(("container", value)) if !value.is_empty() => Ok(Filter::Container(value.to_owned())),
        Some(("image", value)) if !value.is_empty() => Ok(Filter::Image(value.to_owned())),
        Some(("event", value @ ("start" | "oom" | "die" | "destroy"))) => Ok(Filter::Event(value.to_owned())),
        _ => Err(Hinted::new(
            format!("--filter {text} is not known"),
            "write container=NAME, image=NAME, or event= with start, oom, die or destroy",
        )),
    };
    given.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_as_dockers_and_filtered() {
        let id = ContainerId::random();
        let news = News {
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
            id: id.clone(),
            action: "die",
            name: "web".into(),
            image: "shop:1".into(),
            exit_code: Some(3),
        };
        let args = Args { filter: Vec::new(), output: None };
        let line = args.line(&news);
        assert!(line.starts_with("2026-01-02T03:04:05"), "{line}");
        assert!(
            line.ends_with(&format!(" container die {id} (exitCode=3, image=shop:1, name=web)")),
            "{line}"
        );
        for (filter, fits) in [
            ("container=web", Some(true)),
            (&format!("container={}", id.short()), Some(true)),
            ("container=we", Some(false)),
            ("image=shop", Some(false)),
            ("event=die", Some(true)),
            ("event=oom", Some(false)),
            ("event=dies", None),
            ("name=web", None),
        ] {
            let found = filters(&[filter.to_owned()]).ok().map(|filters| filters[0].fits(&news));
            assert_eq!(found, fits, "{filter}");
        }
    }
}
