//! What commands that talk to the running platform share: the connection, tables, ages.

use std::process::ExitCode;

use serde_json::Value;
use wharf_base::{Clock as _, HintExt as _, SystemClock, Timestamp};
use wharf_client::Client;

use super::Globals;

/// `-o`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    Json,
    Yaml,
    Wide,
}

/// Runs `act` with a client of the platform of the chosen folder.
pub(crate) fn connect(
    globals: &Globals,
    act: impl AsyncFnOnce(Client) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let kubeconfig = globals.data_dir()?.join("kubeconfig");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::from_kubeconfig(&kubeconfig)
            .await
            .hint(|| "start the platform with 'wharf up', or choose its folder with --data".to_owned())?;
        act(client).await
    })
}

/// A text of an object; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// How long ago an object was created.
pub(crate) fn age(object: &Value) -> String {
    since(text(object, "/metadata/creationTimestamp"), None)
}

/// The time from one point to another, or to now.
pub(crate) fn since(from: &str, to: Option<&str>) -> String {
    let Ok(from) = from.parse::<Timestamp>() else { return String::new() };
    let to = to.and_then(|to| to.parse().ok()).unwrap_or_else(|| SystemClock.now());
    let seconds = to.since(from).as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Prints objects in the form asked for, as a table otherwise.
pub(crate) fn print(
    form: Option<Form>,
    objects: &[Value],
    table: impl FnOnce(&[Value]),
) -> anyhow::Result<()> {
    match form {
        Some(form @ (Form::Json | Form::Yaml)) => form.print(objects),
        _ => {
            table(objects);
            Ok(())
        }
    }
}

/// Rows under headings, in columns as wide as they need.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("{}", cells.join("   ").trim_end());
        }
    }
}
