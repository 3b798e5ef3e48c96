//! What commands that talk to the running platform share: the connection, tables, ages.

use std::{
    io::{ErrorKind, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::Value;
use wharf_base::{Clock as _, Hinted, SystemClock, Timestamp};
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
    run(async { act(client_of(&globals.data_dir()?).await?).await })
}

/// A client of the platform that runs on a folder.
pub(crate) async fn client_of(folder: &Path) -> anyhow::Result<Client> {
    file_of(folder, "kubeconfig")?;
    // The files of a platform that has ended are still there.
    if let Some(address) = endpoints(folder)?["api"].as_str().and_then(|url| url.strip_prefix("https://"))
        && tokio::net::TcpStream::connect(address).await.is_err()
    {
        return Err(not_running(folder));
    }
    Ok(Client::from_kubeconfig(&folder.join("kubeconfig")).await?)
}

/// Runs a command that waits for others.
pub(crate) fn run(act: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(act)
}

/// What is said when nothing answers.
pub(crate) fn not_running(folder: &Path) -> anyhow::Error {
    let hint = format!(
        "start it with 'wharf up --data {}', or choose another platform's folder with --data",
        folder.display()
    );
    Hinted::new(format!("no platform runs on {}", folder.display()), hint).into()
}

/// The content of a file that a platform writes when it starts.
pub(crate) fn file_of(folder: &Path, name: &str) -> anyhow::Result<String> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => not_running(folder),
        ErrorKind::PermissionDenied => {
            let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
            Hinted::new(error, "run this as the user who started the platform").into()
        }
        _ => anyhow::Error::new(error).context(format!("cannot read {}", path.display())),
    })
}

/// Where the parts of the platform are found.
pub(crate) fn endpoints(folder: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&file_of(folder, "endpoints.json")?)
        .with_context(|| format!("{} is broken", folder.join("endpoints.json").display()))
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

/// Prints one object in the form asked for, as a text otherwise.
pub(crate) fn print_one(
    form: Option<Form>,
    object: &Value,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match form {
        Some(Form::Json) => say(&format!("{}\n", serde_json::to_string_pretty(object)?)),
        Some(Form::Yaml) => say(&wharf_api::codec::value_to_yaml(object)),
        _ => say(&text()),
    }
    Ok(())
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
        say(&self.render());
    }

    /// The text, each row with its newline.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("   ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints. A reader that went away, such as `head`, is no failure.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// Prefixes that draw a tree, for rows in order with these depths.
pub(crate) fn branches(depths: &[usize]) -> Vec<String> {
    // From the end: whether a row of each depth follows that belongs to the same parent.
    let mut follows: Vec<bool> = Vec::new();
    let mut prefixes: Vec<String> = Vec::with_capacity(depths.len());
    for &depth in depths.iter().rev() {
        follows.resize(depth + 1, false);
        let mut prefix = String::new();
        for (level, more) in follows.iter().enumerate().skip(1) {
            prefix.push_str(match (level == depth, more) {
                (true, true) => "├─ ",
                (true, false) => "└─ ",
                (false, true) => "│  ",
                (false, false) => "   ",
            });
        }
        prefixes.push(prefix);
        if let Some(last) = follows.last_mut() {
            *last = true;
        }
    }
    prefixes.reverse();
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_from_depths() {
        let check = |depths: &[usize], drawn: &[&str]| assert_eq!(branches(depths), drawn, "{depths:?}");
        check(&[0], &[""]);
        check(&[0, 1, 2, 2, 1, 2], &["", "├─ ", "│  ├─ ", "│  └─ ", "└─ ", "   └─ "]);
        check(&[0, 1, 0, 1], &["", "└─ ", "", "└─ "]);
        check(&[], &[]);
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut table = Table::new(&["A", "BB"]);
        table.row(["größer".into(), "x".into()]);
        assert_eq!(table.render(), "A        BB\ngrößer   x\n");
    }
}
