//! A logical line to words: flags, quoted words, JSON arrays.

/// Cuts a line into the instruction in capitals, its flags and the rest.
pub(super) fn split_command(line: &str, escape: char) -> (String, Vec<String>, String) {
    let line = line.trim();
    let cut = line.find(is_blank).unwrap_or(line.len());
    let (keyword, rest) = line.split_at(cut);
    let (flags, rest) = split_flags(rest, escape);
    (keyword.to_uppercase(), flags, rest.trim().to_owned())
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The leading words that begin with `--`, without their quotes, and what follows.
fn split_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, after) = flag_word(rest, escape);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

fn flag_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, text.get(at..).unwrap_or("")),
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
            _ => word.push(c),
        }
    }
    (word, "")
}

/// Words with their quotes and escapes kept: they go when variables are put in.
pub(super) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => words.extend(word.take()),
            None | Some('"') if c == escape => {
                // A lone escape at the end stands for nothing.
                if let Some(next) = chars.next() {
                    word.get_or_insert_default().extend([c, next]);
                }
            }
            None => {
                if matches!(c, '"' | '\'') {
                    quote = Some(c);
                }
                word.get_or_insert_default().push(c);
            }
            Some(open) => {
                if c == open {
                    quote = None;
                }
                word.get_or_insert_default().push(c);
            }
        }
    }
    words.extend(word);
    words
}

/// Words between blanks, nothing else looked at.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A JSON array of texts. `None` when this is no JSON array, an error when it holds something else than texts.
pub(super) fn json_array(text: &str) -> Option<Result<Vec<String>, ()>> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return None;
    }
    let values: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let texts = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(()),
    });
    Some(texts.collect())
}

/// Whether a text was meant as a JSON array, valid or not. `[ -f x ]` is the shell's test command.
pub(super) fn is_meant_as_json(text: &str) -> bool {
    let Some(inner) = text.trim_start().strip_prefix('[') else { return false };
    let first = inner.trim_start().chars().next();
    match inner.starts_with(is_blank) {
        true => matches!(first, Some('"' | '\'')) && inner.contains(','),
        false => first.is_some_and(|c| c != '['),
    }
}

/// The fields of one line of comma-separated values, quoted where they begin with `"`.
pub(super) fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("a quoted value does not end"),
                }
            }
            if chars.peek().is_some_and(|c| *c != ',') {
                return Err("something follows a quoted value");
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}
