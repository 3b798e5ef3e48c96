//! From YAML to a checked workflow. Reading goes on after a problem, so that one look shows them all.

mod action;
mod job;
mod scopes;
mod step;
#[cfg(test)]
mod tests;
mod triggers;
mod workflow;

use wharf_base::closest;

use crate::{
    expr::{Condition, Scope, SyntaxError, Template},
    model::Settings,
    problem::{Position, Problem, Problems},
    yaml::{Data, Key, Node},
};

pub use action::read_action;
pub use workflow::read_workflow;

/// A file being read, and what was found wrong with it.
pub(crate) struct Reader {
    file: String,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// The entries of a mapping, all of known names.
pub(crate) struct Fields<'n> {
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }
}

impl Reader {
    fn new(file: &str) -> Self {
        Self { file: file.to_owned(), problems: Vec::new(), warnings: Vec::new() }
    }

    fn problem(&self, at: Position, message: impl Into<String>, hint: Option<String>) -> Problem {
        Problem { file: self.file.clone(), at, message: message.into(), hint }
    }

    /// Notes what is wrong, and what to do about it.
    pub(crate) fn error(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        let problem = self.problem(at, message, Some(hint.into()));
        self.problems.push(problem);
    }

    pub(crate) fn warn(&mut self, at: Position, message: impl Into<String>) {
        let problem = self.problem(at, message, None);
        self.warnings.push(problem);
    }

    fn finish<T>(mut self, value: T) -> Result<(T, Vec<Problem>), Problems> {
        if self.problems.is_empty() {
            return Ok((value, self.warnings));
        }
        self.problems.sort_by_key(|problem| problem.at);
        Err(Problems(self.problems))
    }

    /// A mapping of any names.
    pub(crate) fn mapping<'n>(&mut self, node: &'n Node, what: &str) -> &'n [(Key, Node)] {
        match &node.data {
            Data::Map(entries) => entries,
            _ => {
                let message = format!("{what} must be a mapping, not {}", node.kind());
                self.error(node.at, message, "write 'KEY: VALUE' on lines of their own below it, indented");
                &[]
            }
        }
    }

    /// A mapping of known names; others are errors.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Fields<'n> {
        let entries = self.mapping(node, what);
        for (key, _) in entries {
            self.check_name(key, what, known);
        }
        Fields { entries }
    }

    pub(crate) fn check_name(&mut self, key: &Key, what: &str, known: &[&str]) {
        if !known.contains(&key.text.as_str()) {
            let hint = match closest(&key.text, known.iter().copied()) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("known are: {}", known.join(", ")),
            };
            self.error(key.at, format!("unknown key '{}' in {what}", key.text), hint);
        }
    }

    /// A list of anything.
    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.data {
            Data::List(items) => items,
            _ => {
                let message = format!("{what} must be a list, not {}", node.kind());
                self.error(node.at, message, "write '- ITEM' on lines of their own below it");
                &[]
            }
        }
    }

    /// A single value as a text.
    pub(crate) fn text(&mut self, node: &Node, what: &str) -> String {
        match node.scalar() {
            Some(text) => text,
            None => {
                let hint = "write one value; put it into quotes when it begins with '[' or '{'";
                self.error(node.at, format!("{what} must be a text, not {}", node.kind()), hint);
                String::new()
            }
        }
    }

    /// One text or a list of texts, with their places.
    pub(crate) fn texts(&mut self, node: &Node, what: &str) -> Vec<(Position, String)> {
        match &node.data {
            Data::List(items) => items.iter().map(|item| (item.at, self.text(item, what))).collect(),
            _ => vec![(node.at, self.text(node, what))],
        }
    }

    fn syntax(&mut self, node: &Node, text: &str, error: SyntaxError) {
        let before: String = text.chars().take(error.position).collect();
        let lines = before.matches('\n').count();
        let at = match (node.block, lines) {
            (true, _) => Position { line: node.at.line + lines, column: 1 },
            (false, 0) => Position { column: node.at.column + error.position, ..node.at },
            (false, _) => node.at,
        };
        let message = match error.expression.trim() {
            "" => error.message,
            expression => format!("{} in the expression '{expression}'", error.message),
        };
        let problem = self.problem(at, message, error.hint);
        self.problems.push(problem);
    }

    /// A text with expressions.
    pub(crate) fn template(&mut self, node: &Node, what: &str, scope: &Scope) -> Template {
        let text = self.text(node, what);
        match Template::parse(&text, scope) {
            Ok(template) => template,
            Err(error) => {
                self.syntax(node, &text, error);
                Template::default()
            }
        }
    }

    pub(crate) fn condition(&mut self, node: &Node, scope: &Scope) -> Condition {
        let text = self.text(node, "'if'");
        match Condition::parse(&text, scope) {
            Ok(condition) => condition,
            Err(error) => {
                self.syntax(node, &text, error);
                Condition::default()
            }
        }
    }

    /// Settings by name (`env`, `with`, `outputs`).
    pub(crate) fn settings(&mut self, node: &Node, what: &str, scope: &Scope) -> Settings {
        if matches!(node.data, Data::Null) {
            return Settings::new();
        }
        let entries = self.mapping(node, what);
        entries
            .iter()
            .map(|(key, node)| {
                (key.text.clone(), self.template(node, &format!("'{}' in {what}", key.text), scope))
            })
            .collect()
    }

    /// How a script is run; one that is not known is told here, not when the step runs.
    pub(crate) fn shell(&mut self, node: &Node, scope: &Scope) -> Template {
        let template = self.template(node, "'shell'", scope);
        if let Some(text) = template.as_literal()
            && node.scalar().is_some()
            && !is_shell(text)
        {
            let hint = match closest(text, SHELLS) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => SHELL_HINT.to_owned(),
            };
            self.error(node.at, format!("the shell '{text}' is not supported"), hint);
        }
        template
    }

    /// True or false, or one expression.
    pub(crate) fn flag(&mut self, node: &Node, what: &str, scope: &Scope) -> Template {
        let template = self.template(node, what, scope);
        if template.as_literal().is_some() && !matches!(node.data, Data::Bool(_)) {
            let hint = "write true or false without quotes, or an expression: '${{ … }}'";
            self.error(node.at, format!("{what} must be true or false, not {}", node.kind()), hint);
        }
        template
    }

    /// A number above nothing, or one expression.
    pub(crate) fn number(&mut self, node: &Node, what: &str, scope: &Scope) -> Template {
        let template = self.template(node, what, scope);
        let good = matches!(node.data, Data::Number(value) if value > 0.0 && value.is_finite());
        if template.as_literal().is_some() && !good {
            let given = match node.scalar() {
                Some(text) if !text.is_empty() => format!("'{text}'"),
                _ => node.kind().to_owned(),
            };
            let hint = "write a number without quotes, such as 10, or an expression: '${{ … }}'";
            self.error(node.at, format!("{what} must be a number above 0, not {given}"), hint);
        }
        template
    }
}

/// The shells known by name.
const SHELLS: [&str; 3] = ["sh", "bash", "python"];
/// What to write for `shell`.
pub const SHELL_HINT: &str = "use sh, bash, python, or a command with {0} where the script's file belongs";

/// Whether scripts can be run by this `shell`.
pub fn is_shell(text: &str) -> bool {
    SHELLS.contains(&text) || text.contains("{0}")
}

/// Whether a text can be the id of a job or a step.
fn is_id(text: &str) -> bool {
    text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && text.len() <= 100
}
