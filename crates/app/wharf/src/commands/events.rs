//! `wharf events`: what happens to containers of `wharf run`, as it happens.

use std::{io::Write, process::ExitCode, time::Duration};

use serde_json::json;
use wharf_base::Hinted;
use wharf_engine::watch::{News, watch};

use super::{Globals, containers, formatted::Format, platform::Form};

/// Between two looks for new containers. Making one takes longer.
const TICK: Duration = Duration::from_millis(20);
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what fits: container=NAME or ID, image=NAME, event=create|start|oom|die|destroy
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Another form of output, one document per line
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Print by a Go template, as docker takes it: '{{.Action}}', 'table …', or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<Format>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let filters = filters(&self.filter)?;
        for news in watch(containers::open(globals)?, TICK) {
            if !filters.iter().all(|filter| filter.fits(&news)) {
                continue;
            }
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{}", self.line(&news)?).and_then(|()| out.flush()).is_err() {
                // A reader that went away has seen enough.
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, news: &News) -> anyhow::Result<String> {
        if let Some(format) = &self.format {
            return Ok(format.lines(&[], &[fields(news)])?.trim_end_matches('\n').to_owned());
        }
        if matches!(self.output, Some(Form::Json | Form::Yaml)) {
            let start = if self.output == Some(Form::Yaml) { "- " } else { "" };
            // JSON is YAML.
            return Ok(format!("{start}{}", facts(news)));
        }
        let code = news.exit_code.map_or(String::new(), |code| format!("exitCode={code}, "));
        let (at, id) = (news.at.to_nano(), &news.id);
        let News { action, image, name, .. } = news;
        Ok(format!("{at} container {action} {id} ({code}image={image}, name={name})"))
    }
}

/// An event in docker's form, which `--format` is about.
fn fields(news: &News) -> serde_json::Value {
    let mut attributes: serde_json::Map<_, _> =
        news.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    attributes.insert("name".to_owned(), json!(news.name));
    attributes.insert("image".to_owned(), json!(news.image));
    attributes.extend(news.exit_code.map(|code| ("exitCode".to_owned(), json!(code.to_string()))));
    json!({
        "Type": "container", "Action": news.action, "Status": news.action, "ID": news.id, "From": news.image,
        "Actor": { "ID": news.id, "Attributes": attributes }, "Scope": "local",
        "Time": news.at.as_second(), "TimeNano": news.at.as_second() * 1_000_000_000 + i64::from(news.at.subsec_nanos()),
    })
}

fn facts(news: &News) -> serde_json::Value {
    json!({
        "time": news.at.to_nano(), "type": "container", "action": news.action, "id": news.id,
        "name": news.name, "image": news.image, "exitCode": news.exit_code,
    })
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
        Some(("event", value @ ("create" | "start" | "oom" | "die" | "destroy"))) => {
            Ok(Filter::Event(value.to_owned()))
        }
        _ => Err(Hinted::new(
            format!("--filter {text} is not known"),
            "write container=NAME, image=NAME, or event= with create, start, oom, die or destroy",
        )),
    };
    given.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use wharf_base::ContainerId;

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
            labels: Default::default(),
            exit_code: Some(3),
        };
        let args = Args { filter: Vec::new(), output: None, format: None };
        let line = args.line(&news).unwrap();
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
