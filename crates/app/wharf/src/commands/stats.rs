//! `wharf stats`: what containers use, live.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;
use wharf_engine::{Engine, MAIN};
use wharf_runtime::{PodDir, Runtime, Stats, Status};

use super::{
    Globals, completion,
    containers::{self, hinted, name_of_pod},
    formatted::Format,
    platform::{Form, Table},
};

/// From one line of figures to the next; the use of processors is that of the time between.
const TICK: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show also containers that do not run
    #[arg(short, long)]
    all: bool,
    /// Show the first result only
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Another form of output; without --no-stream one line of JSON or YAML per second
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Print by a Go template, as docker takes it: '{{.Name}}', 'table …', or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<Format>,
    /// Names or ids [default: all that run, those of pods too]
    #[arg(add = completion::running_container())]
    containers: Vec<String>,
}

/// What `--format` may name, with the headings of a table.
const FIELDS: [(&str, &str); 9] = [
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// A container of `wharf run` or of a pod.
struct Subject {
    id: String,
    name: String,
    folder: PathBuf,
    /// Its name within its pod.
    inside: String,
}

/// What was measured of one, and when.
#[derive(Clone)]
struct Sample {
    at: Instant,
    stats: Stats,
    carried: Carried,
}

/// Bytes that came in and went out.
#[derive(Clone, Copy, Default)]
struct Carried {
    /// By the network, where the container has not the machine's.
    network: Option<[u64; 2]>,
    /// By block devices, where the kernel tells.
    blocks: Option<[u64; 2]>,
}

impl Carried {
    fn of(status: &Status) -> Self {
        let total = |pairs: Vec<[u64; 2]>| {
            let sum = |index: usize| pairs.iter().map(|pair| pair[index]).fold(0, u64::saturating_add);
            (!pairs.is_empty()).then(|| [sum(0), sum(1)])
        };
        let own = |pid: &i32| {
            let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            network(&pid.to_string()) != network("1")
        };
        let traffic = status.pid.filter(own).map(wharf_runtime::traffic).unwrap_or_default();
        let blocks = wharf_runtime::block_io(status);
        Self {
            network: total(traffic.iter().map(|one| [one.received.bytes, one.sent.bytes]).collect()),
            blocks: total(blocks.iter().map(|one| [one.read, one.written]).collect()),
        }
    }
}

/// Figures of one line. Without a sample, it does not run.
struct Row {
    id: String,
    name: String,
    cpu: Option<f64>,
    stats: Option<Stats>,
    carried: Carried,
    limit: u64,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let containers = containers::open(globals)?;
        let pods = globals.data_dir()?.join("pods");
        let machine = rustix::system::sysinfo();
        let memory = (machine.totalram as u64).saturating_mul(machine.mem_unit.into());
        let measure = |subjects: &[Subject]| {
            let of = |subject: &Subject| {
                // Without its shim it has ended.
                containers.runtime.open(&subject.folder).ok()?;
                let status = PodDir::at(&subject.folder).status(&subject.inside).ok()?;
                let stats = wharf_runtime::stats(&status).ok()?;
                let carried = Carried::of(&status);
                Some((subject.id.clone(), Sample { at: Instant::now(), stats, carried }))
            };
            subjects.iter().filter_map(of).collect::<BTreeMap<_, _>>()
        };
        let live = !self.no_stream && std::io::stdout().is_terminal();
        let mut before = measure(&self.subjects(&containers, &pods)?);
        loop {
            std::thread::sleep(TICK);
            let subjects = self.subjects(&containers, &pods)?;
            let now = measure(&subjects);
            let rows = subjects.into_iter().map(|s| row(s, &before, &now, memory));
            let rows: Vec<Row> =
                rows.filter(|row| self.all || !self.containers.is_empty() || row.stats.is_some()).collect();
            let text = self.render(&rows)?;
            // Home, each line to its end, and what is below.
            let text = match live && !self.structured() {
                true => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
                false => text,
            };
            let mut out = std::io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            // A reader that went away has seen enough.
            if self.no_stream || written.is_err() {
                return Ok(ExitCode::SUCCESS);
            }
            before = now;
        }
    }

    fn structured(&self) -> bool {
        matches!(self.output, Some(Form::Json | Form::Yaml))
    }

    fn subjects(&self, containers: &Engine, pods: &std::path::Path) -> anyhow::Result<Vec<Subject>> {
        let found = match self.containers.as_slice() {
            [] => {
                containers.all().map_err(hinted)?.into_iter().filter(|c| self.all || c.is_running()).collect()
            }
            names => names
                .iter()
                .map(|name| containers.find(name).map_err(hinted))
                .collect::<anyhow::Result<Vec<_>>>()?,
        };
        let mut subjects: Vec<Subject> = found
            .into_iter()
            .map(|container| Subject {
                id: container.id.to_string(),
                name: container.name().to_owned(),
                folder: container.dir.path().to_owned(),
                inside: MAIN.to_owned(),
            })
            .collect();
        if self.containers.is_empty() {
            subjects.extend(subjects_of_pods(pods));
        }
        Ok(subjects)
    }

    fn render(&self, rows: &[Row]) -> anyhow::Result<String> {
        if let Some(format) = &self.format {
            let values: Vec<_> = rows.iter().map(|row| self.fields(row)).collect();
            return format.lines(&FIELDS, &values);
        }
        let facts: Vec<_> = rows.iter().map(facts).collect();
        Ok(match self.output {
            Some(Form::Json) if self.no_stream => format!("{}\n", serde_json::to_string_pretty(&facts)?),
            Some(Form::Json) => format!("{}\n", serde_json::to_string(&facts)?),
            // JSON is YAML.
            Some(Form::Yaml) => format!("---\n{}\n", serde_json::to_string(&facts)?),
            _ => self.table(rows).render(),
        })
    }

    /// The values of [`FIELDS`].
    fn fields(&self, row: &Row) -> serde_json::Value {
        let shown = if self.no_trunc { row.id.len() } else { 12 };
        let id: String = row.id.chars().take(shown).collect();
        let [cpu, memory, share, network, blocks, pids] = figures(row);
        json!({
            "Container": id, "ID": id, "Name": row.name, "CPUPerc": cpu, "MemUsage": memory, "MemPerc": share,
            "NetIO": network, "BlockIO": blocks, "PIDs": pids,
        })
    }

    fn table(&self, rows: &[Row]) -> Table {
        let wide = self.output == Some(Form::Wide);
        let mut headings = vec!["CONTAINER ID", "NAME"];
        headings.extend(["CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]);
        if wide {
            headings.extend(["PEAK MEM", "THROTTLED", "OOM KILLS"]);
        }
        let mut table = Table::new(&headings);
        for row in rows {
            let shown = if self.no_trunc || wide { row.id.len() } else { 12 };
            let mut cells = vec![row.id.chars().take(shown).collect(), row.name.clone()];
            cells.extend(figures(row));
            if let Some(stats) = row.stats.filter(|_| wide) {
                cells.extend([
                    binary(stats.memory_peak),
                    stats.cpu_throttled_periods.to_string(),
                    stats.oom_kills.to_string(),
                ]);
            }
            table.row(cells);
        }
        table
    }
}

/// Containers of the platform's pods, named NAMESPACE/POD/CONTAINER.
fn subjects_of_pods(pods: &std::path::Path) -> Vec<Subject> {
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let mut subjects: Vec<Subject> = entries
        .map(|entry| PodDir::at(entry.path()))
        .filter_map(|dir| Some((dir.config().ok()?, dir)))
        .flat_map(|(config, dir)| {
            let (id, pod) = (config.id.clone(), name_of_pod(config));
            dir.containers().into_iter().map(move |inside| Subject {
                id: format!("{id}/{inside}"),
                name: format!("{pod}/{}", without_attempt(&inside)),
                folder: dir.path().to_owned(),
                inside,
            })
        })
        .collect();
    subjects.sort_by(|a, b| a.name.cmp(&b.name));
    subjects
}

/// A pod's containers are numbered by their restarts: `NAME.0`.
fn without_attempt(inside: &str) -> &str {
    match inside.rsplit_once('.') {
        Some((name, attempt)) if attempt.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => inside,
    }
}

fn row(
    subject: Subject,
    before: &BTreeMap<String, Sample>,
    now: &BTreeMap<String, Sample>,
    memory: u64,
) -> Row {
    let sample = now.get(&subject.id);
    let cpu = before.get(&subject.id).zip(sample).and_then(|(before, now)| percent(before, now));
    let stats = sample.map(|sample| sample.stats);
    let limit = stats.and_then(|stats| stats.memory_limit).map_or(memory, |limit| limit.min(memory));
    let carried = sample.map(|sample| sample.carried).unwrap_or_default();
    Row { id: subject.id, name: subject.name, cpu, stats, carried, limit }
}

/// Processor, memory with its limit, its share, networks, block devices, processes; as docker writes them.
fn figures(row: &Row) -> [String; 6] {
    let Some(stats) = &row.stats else { return ["--", "-- / --", "--", "--", "--", "--"].map(str::to_owned) };
    let both = |pair: Option<[u64; 2]>| {
        pair.map_or("--".to_owned(), |[there, here]| {
            format!("{} / {}", super::image::human(there), super::image::human(here))
        })
    };
    let used = stats.memory_working_set;
    [
        row.cpu.map_or("--".to_owned(), |cpu| format!("{cpu:.2}%")),
        format!("{} / {}", binary(used), binary(row.limit)),
        format!("{:.2}%", share(used, row.limit)),
        both(row.carried.network),
        both(row.carried.blocks),
        stats.pids.to_string(),
    ]
}

/// Of one processor.
fn percent(before: &Sample, now: &Sample) -> Option<f64> {
    // Started anew under the same name, it has used less than before.
    let used = now.stats.cpu_usage_ns.checked_sub(before.stats.cpu_usage_ns)?;
    let time = now.at.checked_duration_since(before.at)?.as_nanos();
    (time > 0).then(|| used as f64 * 100.0 / time as f64)
}

fn share(used: u64, limit: u64) -> f64 {
    if limit == 0 { 0.0 } else { used as f64 * 100.0 / limit as f64 }
}

/// Bytes as docker writes memory: four digits and a unit of 1024.
fn binary(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        v if v < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

fn facts(row: &Row) -> serde_json::Value {
    json!({
        "id": row.id, "name": row.name, "running": row.stats.is_some(), "cpuPercent": row.cpu,
        "memoryLimit": row.limit,
        "memoryUsage": row.stats.map(|stats| stats.memory_working_set),
        "memoryPercent": row.stats.map(|stats| share(stats.memory_working_set, row.limit)),
        "memoryPeak": row.stats.map(|stats| stats.memory_peak),
        "networkBytes": row.carried.network.map(|[received, sent]| json!({ "received": received, "sent": sent })),
        "blockBytes": row.carried.blocks.map(|[read, written]| json!({ "read": read, "written": written })),
        "pids": row.stats.map(|stats| stats.pids),
        "cpuNanoseconds": row.stats.map(|stats| stats.cpu_usage_ns),
        "throttledPeriods": row.stats.map(|stats| stats.cpu_throttled_periods),
        "oomKills": row.stats.map(|stats| stats.oom_kills),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_as_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (1536, "1.5KiB"),
            (32 << 20, "32MiB"),
            (25_769_803_776, "24GiB"),
            (1_073_000_000, "1023MiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
        let start = Instant::now();
        let sample = |seconds, cpu_usage_ns| Sample {
            at: start + Duration::from_secs(seconds),
            stats: Stats { cpu_usage_ns, memory_working_set: 8 << 20, pids: 3, ..Stats::default() },
            carried: Carried { network: Some([1_500, seconds]), blocks: None },
        };
        let subject = |id: &str| {
            let (id, name) = (id.to_owned(), format!("name-{id}"));
            Subject { id, name, folder: PathBuf::new(), inside: MAIN.into() }
        };
        let before = BTreeMap::from([("a".to_owned(), sample(0, 0)), ("b".to_owned(), sample(0, 9))]);
        let now =
            BTreeMap::from([("a".to_owned(), sample(2, 3_000_000_000)), ("b".to_owned(), sample(2, 5))]);
        let rows = ["a", "b", "c"].map(|id| row(subject(id), &before, &now, 32 << 20));
        let args = Args {
            all: true,
            no_stream: true,
            no_trunc: false,
            output: None,
            format: None,
            containers: Vec::new(),
        };
        assert_eq!(
            args.table(&rows).render(),
            "CONTAINER ID   NAME     CPU %     MEM USAGE / LIMIT   MEM %    NET I/O       BLOCK I/O   PIDS\n\
             a              name-a   150.00%   8MiB / 32MiB        25.00%   1.50kB / 2B   --          3\n\
             b              name-b   --        8MiB / 32MiB        25.00%   1.50kB / 2B   --          3\n\
             c              name-c   --        -- / --             --       --            --          --\n"
        );
    }
}
