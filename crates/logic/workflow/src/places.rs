//! Where the values of YAML documents stand, for errors found by others than this reader.

use granit_parser::{Event, Parser, ScalarStyle};

use crate::{
    problem::{Position, Problem},
    yaml::syntax,
};

/// Values below this depth have the place of what holds them.
const MAX_DEPTH: usize = 64;

/// Where the values of each document stand. Documents without a value are left out.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<Vec<(String, Position)>>);

/// A collection under way.
struct Open {
    path: String,
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
        let mut places = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| syntax(file, text, &error))?;
            let at = Position { line: span.start.line(), column: span.start.col() + 1 };
            match event {
                Event::DocumentStart(..) => places.clear(),
                Event::DocumentEnd if !places.is_empty() => documents.push(std::mem::take(&mut places)),
                Event::SequenceEnd | Event::MappingEnd => drop(open.pop()),
                Event::Scalar(text, style, ..) => {
                    // A key waits for its value.
                    if let Some(Open { next: None, key: key @ None, .. }) = open.last_mut() {
                        *key = Some((text.into_owned(), at));
                        continue;
                    }
                    let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                    if !(open.is_empty() && nothing) {
                        note(&mut places, &mut open, at);
                    }
                }
                Event::Alias(..) => drop(note(&mut places, &mut open, at)),
                Event::SequenceStart(..) => {
                    let path = note(&mut places, &mut open, at);
                    open.push(Open { path, next: Some(0), key: None });
                }
                Event::MappingStart(..) => {
                    let path = note(&mut places, &mut open, at);
                    open.push(Open { path, next: None, key: None });
                }
                _ => {}
            }
        }
        Ok(Self(documents))
    }

    /// Where a value of a document stands (`spec.containers[0].image`): its key, or its own place in a list. When it
    /// is not there, the place of the innermost value that holds it.
    pub fn find(&self, document: usize, path: &str) -> Position {
        let Some(places) = self.0.get(document) else { return Position { line: 1, column: 1 } };
        let mut path = path.trim_start_matches('.');
        loop {
            if let Some((_, at)) = places.iter().find(|(known, _)| known == path) {
                return *at;
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }
}

/// Notes the place of a value; gives its path.
fn note(places: &mut Vec<(String, Position)>, open: &mut [Open], at: Position) -> String {
    let depth = open.len();
    let (path, at) = match open.last_mut() {
        None => (String::new(), at),
        Some(Open { path, next: Some(next), .. }) => {
            *next += 1;
            (format!("{path}[{}]", *next - 1), at)
        }
        Some(Open { path, next: None, key }) => match key.take() {
            Some((key, at)) if path.is_empty() => (key, at),
            Some((key, at)) => (format!("{path}.{key}"), at),
            // A key that is itself a collection.
            None => (format!("{path}.?"), at),
        },
    };
    if depth > MAX_DEPTH {
        return String::new();
    }
    places.push((path.clone(), at));
    path
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
