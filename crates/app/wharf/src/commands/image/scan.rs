//! `wharf image scan`: known vulnerabilities and secrets of an image.

use std::{path::PathBuf, process::ExitCode};

use wharf_base::Hinted;
use wharf_scan::{Report, Scanner, Severity};

use super::{Globals, hinted, open, table};
use crate::commands::completion;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name or id of the image
    #[arg(add = completion::image())]
    image: String,
    /// Folder of advisories in OSV's JSON form [default: DIR/osv]
    #[arg(long, value_name = "DIR")]
    osv: Option<PathBuf>,
    /// Fail when there is a finding that is at least so bad: unknown, low, medium, high or critical
    #[arg(long, value_name = "LEVEL", default_value_t = Severity::High)]
    severity: Severity,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Form {
    Table,
    Json,
    Cyclonedx,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let osv = match &self.osv {
            Some(dir) => dir.clone(),
            None => globals.data_dir()?.join("osv"),
        };
        let scanner = Scanner::open(&osv).map_err(scan_error)?;
        let image = store.resolve(&self.image).map_err(hinted)?;
        let report = scanner.scan(&store, &image).map_err(scan_error)?;
        match self.output {
            Form::Table => self.print(&report, &scanner),
            Form::Json => println!("{}", serde_json::to_string_pretty(&report)?),
            Form::Cyclonedx => println!("{}", serde_json::to_string_pretty(&wharf_scan::cyclonedx(&report))?),
        }
        let bad = report.at_least(self.severity).next().is_some();
        Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn print(&self, report: &Report, scanner: &Scanner) {
        let os = report.os.as_ref().map_or("no distribution".to_owned(), |os| {
            format!("{} {}", os.id, os.version.as_deref().unwrap_or("without a release"))
        });
        let (packages, advisories) = (report.packages.len(), scanner.database().len());
        println!("{} ({os}): {packages} packages against {advisories} advisories", report.image);
        if !report.findings.is_empty() {
            let rows: Vec<Vec<String>> = report
                .findings
                .iter()
                .map(|f| {
                    let fix = f.fixed_in.clone().unwrap_or_else(|| "-".into());
                    let summary = f.summary.chars().take(70).collect();
                    vec![
                        f.severity.to_string(),
                        f.id.clone(),
                        f.package.clone(),
                        f.version.clone(),
                        fix,
                        summary,
                    ]
                })
                .collect();
            println!("");
            table(&["SEVERITY", "ID", "PACKAGE", "VERSION", "FIXED IN", "SUMMARY"], &rows);
        }
        if !report.secrets.is_empty() {
            let rows: Vec<Vec<String>> = report
                .secrets
                .iter()
                .map(|s| {
                    let hidden = if s.hidden { "hidden by an upper layer" } else { "" };
                    let place = format!("{}:{}", s.secret.path, s.secret.line);
                    vec![s.secret.kind.clone(), place, s.layer.short(), hidden.into()]
                })
                .collect();
            println!("");
            table(&["SECRET", "FILE", "LAYER", ""], &rows);
        }
        println!("");
        let count = |level| report.findings.iter().filter(|f| f.severity == level).count();
        let levels = [Severity::Critical, Severity::High, Severity::Medium, Severity::Low, Severity::Unknown];
        let counts: Vec<String> = levels.iter().map(|level| format!("{level} {}", count(*level))).collect();
        println!(
            "{} findings ({}), {} secrets",
            report.findings.len(),
            counts.join(", "),
            report.secrets.len()
        );
        let unrated = count(Severity::Unknown);
        if unrated > 0 && self.severity > Severity::Unknown {
            println!(
                "note: {unrated} findings have no severity in the database; --severity unknown fails on them too"
            );
        }
        report.notes.iter().for_each(|note| println!("note: {note}"));
        let failing = report.at_least(self.severity).count();
        if failing > 0 {
            println!("failed: {failing} findings of severity {} or worse", self.severity);
        }
    }
}

fn scan_error(error: wharf_scan::Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error, hint).into(),
        None => error.into(),
    }
}
