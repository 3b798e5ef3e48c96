//! Where the values of YAML documents stand, for errors found by others than this reader.

use granit_parser::{Event, Parser, ScalarStyle};

use crate::{
    problem::{Position, Problem},
    yaml::syntax,
};

/// Where the values of each document stand. Documents without a value are left out.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<Vec<Value>>);

/// A value of a document; the first is its root.
#[derive(Debug, Clone)]
struct Value {
    /// The value that holds it, by its place in the list.
    parent: usize,
    /// Its key, or `[0]` in a list.
    name: String,
    at: Position,
}

/// A collection under way.
struct Open {
    value: usize,
    /// The index of the next item; nothing in a mapping.
    next: Option<usize>,
    /// The key whose value comes next.
    key: Option<(String, Position)>,
}

impl Places {
    /// Reads a text of any number of documents.
    ///
    /// # Errors
    /// Where it stops being YAML, and why.
    pub fn read(file: &str, text: &str) -> Result<Self, Problem> {
        let mut documents = Vec::new();
        let mut values = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| syntax(file, text, &error))?;
            let at = Position { line: span.start.line(), column: span.start.col() + 1 };
            let next = match event {
                Event::DocumentStart(..) => {
                    values.clear();
                    continue;
                }
                Event::DocumentEnd if !values.is_empty() => {
                    documents.push(std::mem::take(&mut values));
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    continue;
                }
                Event::Scalar(text, style, ..) => {
                    // A key waits for its value.
                    if let Some(Open { next: None, key: key @ None, .. }) = open.last_mut() {
                        *key = Some((text.into_owned(), at));
                        continue;
                    }
                    let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                    if !(open.is_empty() && nothing) {
                        note(&mut values, &mut open, at);
                    }
                    continue;
                }
                Event::Alias(..) => {
                    note(&mut values, &mut open, at);
                    continue;
                }
                Event::SequenceStart(..) => Some(0),
                Event::MappingStart(..) => None,
                _ => continue,
            };
            let value = note(&mut values, &mut open, at);
            open.push(Open { value, next, key: None });
        }
        Ok(Self(documents))
    }

    /// Where a value of a document stands (`spec.containers[0].image`): its key, or its own place in a list. When it
    /// is not there, the place of the innermost value that holds it.
    pub fn find(&self, document: usize, path: &str) -> Position {
        let values = self.0.get(document).map_or(&[][..], Vec::as_slice);
        let Some(root) = values.first() else { return Position { line: 1, column: 1 } };
        let (mut found, mut at, mut path) = (0, root.at, path.trim_start_matches('.'));
        while !path.is_empty() {
            // Keys may have dots of their own.
            let child = values.iter().enumerate().skip(1).find_map(|(index, value)| {
                let rest = (value.parent == found).then(|| path.strip_prefix(value.name.as_str()))??;
                (rest.is_empty() || rest.starts_with(['.', '['])).then_some((index, value.at, rest))
            });
            let Some((index, place, rest)) = child else { break };
            (found, at, path) = (index, place, rest.trim_start_matches('.'));
        }
        at
    }
}

/// Notes the place of a value; gives its own in the list.
fn note(values: &mut Vec<Value>, open: &mut [Open], at: Position) -> usize {
    let (parent, name, at) = match open.last_mut() {
        None => (0, String::new(), at),
        Some(Open { value, next: Some(next), .. }) => {
            *next += 1;
            (*value, format!("[{}]", *next - 1), at)
        }
        // A key that is itself a collection has no name.
        Some(Open { value, key, .. }) => {
            let (name, at) = key.take().unwrap_or((String::new(), at));
            (*value, name, at)
        }
    };
    values.push(Value { parent, name, at });
    values.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_or_what_holds_them() {
        let text = "# first\nkind: A\nspec:\n  list:\n  - name: x\n    image: y\n  - {name: z}\n---\n# nothing\n---\n\
                    metadata:\n  labels: {a.b/c: d}\n";
        let places = Places::read("f", text).unwrap();
        for (document, path, line, column) in [
            (0, "", 2, 1),
            (0, "kind", 2, 1),
            (0, ".spec.list[0].image", 6, 5),
            (0, "spec.list[1].name", 7, 6),
            (0, "spec.list[1].nmae", 7, 5),
            (0, "spec.list[2]", 4, 3),
            (0, "status.x.y", 2, 1),
            (1, "metadata.labels", 12, 3),
            (1, "metadata.labels[a]", 12, 3),
            (1, "metadata.labels.a.b/c", 12, 12),
            (2, "kind", 1, 1),
        ] {
            assert_eq!(places.find(document, path), Position { line, column }, "{document} {path}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place() {
        let problem = Places::read("f", "a: b: c\n").unwrap_err();
        assert_eq!(problem.at, Position { line: 1, column: 5 }, "{problem}");
        assert!(Places::read("f", &"[".repeat(100_000)).is_err());
    }
}
