//! What scripts tell the runner: `::command::` lines of their output, and the files `GITHUB_OUTPUT` and the like.

/// A `::name key=value,…::message` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// In lower case.
    pub name: String,
    /// Properties in the order written.
    pub properties: Vec<(String, String)>,
    /// What follows the second `::`.
    pub message: String,
}

impl Command {
    /// Reads a line; nothing when it is not one.
    pub fn parse(line: &str) -> Option<Self> {
        let (head, message) = line.trim_start().strip_prefix("::")?.split_once("::")?;
        let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return None;
        }
        let properties = properties
            .split(',')
            .filter_map(|property| property.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), unescape(value, true)))
            .collect();
        Some(Self { name: name.to_ascii_lowercase(), properties, message: unescape(message, false) })
    }

    /// A property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn unescape(text: &str, property: bool) -> String {
    let mut text = text.replace("%0D", "\r").replace("%0A", "\n");
    if property {
        text = text.replace("%3A", ":").replace("%2C", ",");
    }
    text.replace("%25", "%")
}

/// Entries of a command file: `name=value` or `name<<END`, lines, `END`.
///
/// # Errors
/// The line, counted from one, and what is wrong with it.
pub fn parse_entries(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let wrong = |why: &str| Err(format!("line {}: {why}", index + 1));
        let (equals, heredoc) = (line.find('='), line.find("<<"));
        match (equals, heredoc) {
            (Some(equals), heredoc) if heredoc.is_none_or(|heredoc| equals < heredoc) => {
                let (name, value) = (&line[..equals], &line[equals + 1..]);
                if name.is_empty() {
                    return wrong("there is no name before '='");
                }
                entries.push((name.to_owned(), value.to_owned()));
            }
            (_, Some(heredoc)) => {
                let (name, end) = (&line[..heredoc], &line[heredoc + 2..]);
                if name.is_empty() || end.is_empty() {
                    return wrong("'<<' needs a name before it and a delimiter after it");
                }
                let mut value: Vec<&str> = Vec::new();
                loop {
                    match lines.next() {
                        Some((_, line)) if line == end => break,
                        Some((_, line)) => value.push(line),
                        None => return wrong(&format!("the delimiter '{end}' does not follow")),
                    }
                }
                entries.push((name.to_owned(), value.join("\n")));
            }
            _ => return wrong("neither 'name=value' nor 'name<<DELIMITER'"),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_commands() {
        let command = Command::parse("::error file=a%2Cb.py,line=3::bad%0Anews 100%25").unwrap();
        assert_eq!(command.name, "error");
        assert_eq!(command.property("file"), Some("a,b.py"));
        assert_eq!(command.property("line"), Some("3"));
        assert_eq!(command.message, "bad\nnews 100%");
        assert_eq!(Command::parse("::endgroup::").unwrap().message, "");
        assert_eq!(Command::parse("  ::Set-Output name=a::b::c").unwrap().message, "b::c");
        for no in ["plain", ":: ::x", "std::string::x", "::no end", "::a b"] {
            assert_eq!(Command::parse(no), None, "{no}");
        }
    }

    #[test]
    fn reads_command_files() {
        let entries = |text| {
            parse_entries(text)
                .map(|all| all.into_iter().map(|(k, v)| format!("{k}={v:?} ")).collect::<String>())
        };
        assert_eq!(entries("a=1\n\nb==<<x\r\n"), Ok(r#"a="1" b="=<<x" "#.into()));
        assert_eq!(entries("a<<END\none\n\ntwo=2\nEND\nb<<X\nX\n"), Ok(r#"a="one\n\ntwo=2" b="" "#.into()));
        assert_eq!(entries("a\n"), Err("line 1: neither 'name=value' nor 'name<<DELIMITER'".into()));
        assert_eq!(entries("x=1\na<<END\none"), Err("line 2: the delimiter 'END' does not follow".into()));
        assert_eq!(entries("=1"), Err("line 1: there is no name before '='".into()));
    }
}
