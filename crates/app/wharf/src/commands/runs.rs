//! `wharf runs`: runs of workflows.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use wharf_base::{HintExt as _, Hinted, closest};
use wharf_ci::{
    api::{JobStatus, NAMESPACE, RunPhase, RunSpec, WORKFLOW_RUNS, WorkflowRun, create_run},
    read_log_line,
};
use wharf_client::{Client, ListParams, PatchKind};
use wharf_gitserver::Repositories;

use super::{
    Globals,
    platform::{Form, Table, age, connect, print, since, text},
};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List runs
    Ls {
        /// Only those of this repository
        repository: Option<String>,
        /// Another form of output
        #[arg(short, long, value_enum)]
        output: Option<Form>,
    },
    /// Show a run with its jobs and steps
    Show {
        /// The run, such as shop-12
        run: String,
        /// Another form of output
        #[arg(short, long, value_enum)]
        output: Option<Form>,
    },
    /// Print the logs of a run
    Logs {
        /// The run, such as shop-12
        run: String,
        /// Only this job
        #[arg(short, long)]
        job: Option<String>,
        /// Go on until the run ends; its end is the exit code
        #[arg(short, long)]
        follow: bool,
        /// Show when each line was written
        #[arg(short, long)]
        timestamps: bool,
    },
    /// End a run
    Cancel {
        /// The run, such as shop-12
        run: String,
    },
    /// Start a workflow that waits for it (workflow_dispatch)
    Start {
        /// The repository
        repository: String,
        /// The workflow's file, such as ci.yml
        workflow: String,
        /// Branch, tag or commit
        #[arg(long = "ref", default_value = "main")]
        reference: String,
        /// An input: NAME=VALUE
        #[arg(short, long = "input", value_name = "N=V")]
        inputs: Vec<String>,
    },
    /// Run the same commit again
    Rerun {
        /// The run, such as shop-12
        run: String,
    },
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let folder = globals.data_dir()?.join("ci/runs");
        connect(globals, async |client| match self.command {
            Command::Ls { repository, output } => list(&client, repository, output).await,
            Command::Show { run, output } => show(&client, &run, output).await,
            Command::Logs { run, job, follow, timestamps } => {
                let mut logs = Logs { folder, job, timestamps, read: BTreeMap::new() };
                logs.print(&client, &run, follow).await
            }
            Command::Cancel { run } => {
                let (_, found) = get(&client, &run).await?;
                if found.status.phase.is_final() {
                    let error = format!("the run {run} has ended already: {:?}", found.status.phase);
                    return Err(Hinted::new(error, format!("'wharf runs show {run}' shows how")).into());
                }
                let body = json!({"spec": {"cancel": true}});
                client.patch(&WORKFLOW_RUNS, NAMESPACE, &run, None, PatchKind::Merge, &body).await?;
                println!("{run}");
                Ok(ExitCode::SUCCESS)
            }
            Command::Start { repository, workflow, reference, inputs } => {
                let spec = dispatch(&globals.data_dir()?, repository, &workflow, &reference, &inputs).await?;
                let created = create_run(&client, spec).await?;
                println!("{}", text(&created, "/metadata/name"));
                Ok(ExitCode::SUCCESS)
            }
            Command::Rerun { run } => {
                let (_, found) = get(&client, &run).await?;
                let attempt = found.spec.attempt.max(1) + 1;
                let spec = RunSpec { rerun_of: run, attempt, cancel: false, ..found.spec };
                let created = create_run(&client, spec).await?;
                println!("{}", text(&created, "/metadata/name"));
                Ok(ExitCode::SUCCESS)
            }
        })
    }
}

/// A run of a workflow that a person starts.
async fn dispatch(
    data: &Path,
    repository: String,
    workflow: &str,
    reference: &str,
    inputs: &[String],
) -> anyhow::Result<RunSpec> {
    let all = Repositories::open(data.join("git"))?;
    let found = all.get(&repository).hint(|| format!("repositories: {}", all.names().join(", ")))?;
    let full = [format!("refs/heads/{reference}"), format!("refs/tags/{reference}"), reference.to_owned()];
    let mut resolved = None;
    for name in full {
        resolved = found.resolve(&name).await?.map(|sha| (name, sha));
        if resolved.is_some() {
            break;
        }
    }
    let (reference, sha) = resolved.ok_or_else(|| {
        Hinted::new(format!("{repository} has no '{reference}'"), "name a branch, tag or commit by --ref")
    })?;
    let folder = ".github/workflows";
    let file = workflow.strip_prefix(folder).map_or(workflow, |name| name.trim_start_matches('/'));
    let files = found.list(&sha, folder).await?;
    if !files.iter().any(|name| name == file) {
        let hint = format!("workflows: {}", files.join(", "));
        return Err(Hinted::new(format!("{repository} has no workflow '{file}' at {reference}"), hint).into());
    }
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Hinted::new(format!("input '{text}' has no value"), "write --input NAME=VALUE")),
    };
    Ok(RunSpec {
        repository,
        reference,
        sha,
        workflow: format!("{folder}/{file}"),
        event: "workflow_dispatch".into(),
        attempt: 1,
        actor: "local".into(),
        inputs: inputs.iter().map(pair).collect::<Result<_, _>>()?,
        ..RunSpec::default()
    })
}

async fn get(client: &Client, name: &str) -> anyhow::Result<(Value, WorkflowRun)> {
    match client.get(&WORKFLOW_RUNS, NAMESPACE, name).await? {
        Some(object) => {
            let run = wharf_control::read(&object)?;
            Ok((object, run))
        }
        None => {
            let all = client.list(&WORKFLOW_RUNS, &ListParams::namespace(NAMESPACE)).await?.items;
            let names: Vec<&str> = all.iter().map(|run| text(run, "/metadata/name")).collect();
            let hint = match closest(name, names) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => "'wharf runs ls' lists all runs".to_owned(),
            };
            Err(Hinted::new(format!("there is no run '{name}'"), hint).into())
        }
    }
}

async fn list(client: &Client, repository: Option<String>, output: Option<Form>) -> anyhow::Result<ExitCode> {
    let mut runs = client.list(&WORKFLOW_RUNS, &ListParams::namespace(NAMESPACE)).await?.items;
    runs.retain(|run| repository.as_deref().is_none_or(|name| text(run, "/spec/repository") == name));
    let number = |run: &Value| run.pointer("/spec/number").and_then(Value::as_u64).unwrap_or(0);
    runs.sort_by_key(|run| (text(run, "/spec/repository").to_owned(), std::cmp::Reverse(number(run))));
    print(output, &runs, |runs| {
        let wide = output == Some(Form::Wide);
        let mut headings = vec!["RUN", "WORKFLOW", "REF", "PHASE", "TITLE", "TOOK", "AGE"];
        headings.extend(wide.then_some("SHA"));
        let mut table = Table::new(&headings);
        for run in runs {
            let short =
                text(run, "/spec/ref").trim_start_matches("refs/heads/").trim_start_matches("refs/tags/");
            let ended = run.pointer("/status/completedAt").and_then(Value::as_str);
            let phase = text(run, "/status/phase");
            let mut row = vec![
                text(run, "/metadata/name").to_owned(),
                text(run, "/status/workflowName").to_owned(),
                short.to_owned(),
                if phase.is_empty() { "Pending".into() } else { phase.to_owned() },
                text(run, "/status/title").chars().take(40).collect(),
                since(text(run, "/status/startedAt"), ended),
                age(run),
            ];
            row.extend(wide.then(|| text(run, "/spec/sha").to_owned()));
            table.row(row);
        }
        table.print();
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(client: &Client, name: &str, output: Option<Form>) -> anyhow::Result<ExitCode> {
    let (object, run) = get(client, name).await?;
    print(output, std::slice::from_ref(&object), |_| {
        let (spec, status) = (&run.spec, &run.status);
        println!(
            "{name}: {} of {} at {}",
            spec.workflow,
            spec.repository,
            spec.sha.get(..12).unwrap_or(&spec.sha)
        );
        println!("  {}  {}", spec.reference, status.title);
        let message = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
        println!("  {:?}{message}", status.phase);
        for job in &status.jobs {
            show_job(job);
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn took(started: &Option<String>, ended: &Option<String>) -> String {
    started.as_ref().map(|started| since(started, ended.as_deref())).unwrap_or_default()
}

fn show_job(job: &JobStatus) {
    let state = if job.conclusion.is_empty() { &job.status } else { &job.conclusion };
    println!("\n{}  {state}  {}", job.name, took(&job.started_at, &job.completed_at));
    for (what, value) in [
        ("reason", &job.reason),
        ("message", &job.message),
        ("environment", &job.environment),
        ("url", &job.url),
    ] {
        if !value.is_empty() {
            println!("  {what}: {value}");
        }
    }
    for step in &job.steps {
        let state = if step.conclusion.is_empty() { &step.status } else { &step.conclusion };
        println!(
            "  {:>2} {state:<11} {}  {}",
            step.number,
            step.name,
            took(&step.started_at, &step.completed_at)
        );
    }
    for annotation in &job.annotations {
        println!("  {}: {}{}", annotation.level, prefix(&annotation.file), annotation.message);
    }
}

fn prefix(file: &str) -> String {
    if file.is_empty() { String::new() } else { format!("{file}: ") }
}

/// Prints the log files of a run, which lie in the platform's folder.
struct Logs {
    folder: PathBuf,
    job: Option<String>,
    timestamps: bool,
    /// How much of each job's log has been printed.
    read: BTreeMap<String, u64>,
}

impl Logs {
    async fn print(&mut self, client: &Client, name: &str, follow: bool) -> anyhow::Result<ExitCode> {
        let mut looked = 0u32;
        loop {
            let (_, run) = get(client, name).await?;
            if let Some(wanted) = &self.job {
                let jobs = &run.status.jobs;
                let known = jobs.iter().any(|job| job.key == *wanted || job.id == *wanted);
                if !known && run.status.phase != RunPhase::Pending {
                    let keys: Vec<&str> = jobs.iter().map(|job| job.key.as_str()).collect();
                    let error = format!("the run {name} has no job '{wanted}'");
                    return Err(Hinted::new(error, format!("its jobs are: {}", keys.join(", "))).into());
                }
            }
            let ended = run.status.phase.is_final();
            self.print_new(&run)?;
            if ended || !follow {
                let good = !follow || run.status.phase == RunPhase::Succeeded;
                if follow && !run.status.message.is_empty() {
                    println!("{}", run.status.message);
                }
                return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            // The API is asked now and then, the files are looked at all the time.
            looked += 1;
            for _ in 0..if looked < 10 { 1 } else { 5 } {
                tokio::time::sleep(LOOK).await;
                self.print_new(&run)?;
            }
        }
    }

    fn print_new(&mut self, run: &WorkflowRun) -> anyhow::Result<()> {
        let several = self.job.is_none() && run.status.jobs.len() > 1;
        for job in &run.status.jobs {
            if self.job.as_ref().is_some_and(|wanted| *wanted != job.key && *wanted != job.id) {
                continue;
            }
            let path = self.folder.join(&run.metadata.uid).join(&job.key).join("log");
            let read = self.read.entry(job.key.clone()).or_default();
            for line in new_lines(&path, read)? {
                let Some((time, _, text)) = read_log_line(&line) else { continue };
                let time = if self.timestamps { format!("{time} ") } else { String::new() };
                let name = if several { format!("{} | ", job.key) } else { String::new() };
                println!("{time}{name}{text}");
            }
        }
        Ok(())
    }
}

/// Whole lines that were not there before.
fn new_lines(path: &Path, read: &mut u64) -> anyhow::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read {}", path.display()))
                .hint(|| {
                    "logs are read from the platform's folder: use --data, and the platform's user".to_owned()
                })
                .map_err(Into::into);
        }
    };
    file.seek(SeekFrom::Start(*read))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    *read += whole as u64;
    Ok(String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_log_is_read_line_by_line() {
        let path = std::env::temp_dir().join(format!("wharf-log-{}", std::process::id()));
        let mut read = 0;
        assert!(new_lines(&path, &mut read).unwrap().is_empty());
        std::fs::write(&path, "one\ntw").unwrap();
        assert_eq!(new_lines(&path, &mut read).unwrap(), ["one"]);
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(new_lines(&path, &mut read).unwrap(), ["two"]);
        std::fs::remove_file(&path).unwrap();
    }
}
