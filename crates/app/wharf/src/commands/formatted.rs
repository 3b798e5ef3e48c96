//! `--format`: Go templates over what a command has found, as the commands of docker take them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use wharf_base::Hinted;

use crate::format::{Missing, Template};

/// What is said of mistakes.
const HINT: &str = "write a Go template such as '{{.Names}}', 'table {{.ID}}\\t{{.Image}}', or 'json'";

/// Between the columns of a table, and the least width of one, as docker has them.
const GAP: usize = 3;
const LEAST: usize = 10;

/// One template, for each thing a line.
#[derive(Clone)]
pub(crate) struct Format {
    template: Arc<Template>,
    /// What stands above a table, of whose fields not every one needs a heading.
    above: Option<Arc<Template>>,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (table, text) = match text {
            "json" => (false, "{{json .}}"),
            _ => match text.strip_prefix("table") {
                Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t']) => (true, rest.trim_start()),
                _ => (false, text),
            },
        };
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let read = || Template::parse(&text).map_err(|problem| format!("{problem}\n  hint: {HINT}"));
        let above = if table { Some(Arc::new(read()?.missing(Missing::NoValue))) } else { None };
        Ok(Self { template: Arc::new(read()?), above })
    }
}

impl Format {
    /// The lines for `values`; a table has `headings` for their fields above it.
    pub(crate) fn lines(&self, headings: &[(&str, &str)], values: &[Value]) -> anyhow::Result<String> {
        let names: Map<String, Value> =
            headings.iter().map(|(field, heading)| ((*field).to_owned(), json!(heading))).collect();
        let names = Value::Object(names);
        let above = self.above.as_ref().map(|above| (above, &names));
        let mut rows = Vec::new();
        for (template, value) in above.into_iter().chain(values.iter().map(|value| (&self.template, value))) {
            rows.push(template.render(value).map_err(|problem| Hinted::new(problem.to_string(), HINT))?);
        }
        Ok(match self.above {
            Some(_) => aligned(&rows),
            None => rows.iter().map(|row| format!("{row}\n")).collect(),
        })
    }
}

/// Lines with their columns, which tabs end, below each other.
fn aligned(rows: &[String]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for cells in rows.iter().map(|row| row.split('\t').collect::<Vec<_>>()) {
        // The last cell of a line ends no column.
        for (at, cell) in cells.iter().enumerate().take(cells.len().saturating_sub(1)) {
            let wide = (cell.chars().count() + GAP).max(LEAST);
            match widths.get_mut(at) {
                Some(width) => *width = wide.max(*width),
                None => widths.push(wide),
            }
        }
    }
    let line = |row: &String| {
        let mut cells = row.split('\t').peekable();
        let mut line = String::new();
        let mut widths = widths.iter();
        while let Some(cell) = cells.next() {
            let width = widths.next().copied().filter(|_| cells.peek().is_some()).unwrap_or_default();
            line.push_str(&format!("{cell:width$}"));
        }
        line + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_tables_are_as_dockers() {
        let values = [json!({"ID": "1", "Name": "a name that is long"}), json!({"ID": "22", "Name": "b"})];
        let headings = [("ID", "THE ID"), ("Name", "NAME")];
        for (format, expected) in [
            ("{{.ID}} is {{.Name}}", "1 is a name that is long\n22 is b\n"),
            (r"{{.ID}}\t{{.Name}}", "1\ta name that is long\n22\tb\n"),
            ("json", "{\"ID\":\"1\",\"Name\":\"a name that is long\"}\n{\"ID\":\"22\",\"Name\":\"b\"}\n"),
            (
                r"table {{.Name}}\t{{.ID}}",
                "NAME                  THE ID\na name that is long   1\nb                     22\n",
            ),
            ("table {{.ID}}", "THE ID\n1\n22\n"),
        ] {
            let format: Format = format.parse().unwrap();
            assert_eq!(format.lines(&headings, &values).unwrap(), expected);
        }
        let error = "{{.ID".parse::<Format>().err().unwrap();
        assert!(error.contains("unclosed action") && error.contains("hint: write a Go template"), "{error}");
        let unknown: Format = "{{.Nope}}".parse().unwrap();
        let error = unknown.lines(&headings, &values).unwrap_err().to_string();
        assert!(error.contains("Nope"), "{error}");
    }
}
