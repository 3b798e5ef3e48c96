//! Reads the Prometheus text format 0.0.4 and OpenMetrics 1.0.

use std::borrow::Cow;

use super::labels::{METRIC_NAME, is_label_name, is_metric_name};

/// Which of the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Text,
    /// `application/openmetrics-text`
    OpenMetrics,
}

impl Format {
    /// By the `Content-Type` of the answer.
    pub fn of_content_type(value: &str) -> Self {
        if value.trim_start().starts_with("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// What is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// One line that says something.
#[derive(Debug, PartialEq)]
pub enum Line<'a> {
    /// `# TYPE metric kind`
    Type(&'a str, &'a str),
    /// `# HELP metric text`
    Help(&'a str, Cow<'a, str>),
    /// `# UNIT metric unit`
    Unit(&'a str, &'a str),
    /// A sample.
    Sample(Sample<'a>),
}

/// One sample as written.
#[derive(Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name and labels as they stand in the text: the same text means the same series.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// Milliseconds since the epoch, when the line has its own time.
    pub t: Option<i64>,
    /// The exemplar behind it.
    pub exemplar: Option<Exemplar<'a>>,
}

/// An exemplar as written.
#[derive(Debug, PartialEq)]
pub struct Exemplar<'a> {
    /// Its labels.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The value.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub t: Option<i64>,
}

const LINE_LIMIT: usize = 1 << 20;
const LABEL_LIMIT: usize = 1000;

type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Calls `each` with every line in order; stops at the first wrong one.
pub fn parse<'a>(
    text: &'a str,
    format: Format,
    mut each: impl FnMut(Line<'a>) -> Result<(), String>,
) -> Result<(), ParseError> {
    let mut ended = false;
    for (i, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let fail = |what: String| ParseError { line: i + 1, what };
        if ended && !line.is_empty() {
            return Err(fail("text after # EOF".into()));
        }
        if format == Format::OpenMetrics && line == "# EOF" {
            ended = true;
            continue;
        }
        if line.len() > LINE_LIMIT {
            return Err(fail(format!("longer than {LINE_LIMIT} bytes")));
        }
        if let Some(found) = parse_line(line, format).map_err(fail)? {
            each(found).map_err(fail)?;
        }
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ParseError {
            line: text.lines().count(),
            what: "the text does not end with # EOF".into(),
        });
    }
    Ok(())
}

fn parse_line(line: &str, format: Format) -> Result<Option<Line<'_>>, String> {
    let line = line.trim_matches([' ', '\t']);
    match line.strip_prefix('#') {
        Some(comment) => Ok(parse_comment(comment)),
        None if line.is_empty() => Ok(None),
        None => parse_sample(line, format).map(|sample| Some(Line::Sample(sample))),
    }
}

fn parse_comment(comment: &str) -> Option<Line<'_>> {
    let mut words = comment.trim_start().splitn(3, [' ', '\t']);
    let (keyword, metric, rest) = (words.next()?, words.next()?, words.next().unwrap_or(""));
    let metric = metric.trim_matches('"');
    match keyword {
        "TYPE" => Some(Line::Type(metric, rest.trim())),
        "HELP" => Some(Line::Help(metric, unescape(rest))),
        "UNIT" => Some(Line::Unit(metric, rest.trim())),
        _ => None,
    }
}

fn parse_sample(line: &str, format: Format) -> Result<Sample<'_>, String> {
    let (series, rest) = line.split_at(series_end(line)?);
    let (numbers, exemplar) = match rest.split_once('#') {
        Some((numbers, exemplar)) => (numbers, Some(parse_exemplar(exemplar)?)),
        None => (rest, None),
    };
    let mut words = numbers.split_ascii_whitespace();
    let value = words.next().ok_or("a sample without a value")?;
    let value = number(value).ok_or_else(|| format!("{value:?} is no number"))?;
    let t = words.next().map(|text| time(text, format)).transpose()?;
    match words.next() {
        Some(more) => Err(format!("unexpected {more:?} behind the sample")),
        None => Ok(Sample { series, value, t, exemplar }),
    }
}

/// Where name and labels end: at the closing brace outside of quotes, else at the first blank.
fn series_end(line: &str) -> Result<usize, String> {
    let Some(open) = line.find(['{', ' ', '\t']) else { return Err("a sample without a value".into()) };
    let bytes = line.as_bytes();
    // A blank may stand between name and brace.
    let brace =
        open + bytes.get(open..).map_or(0, |b| b.iter().take_while(|c| matches!(c, b' ' | b'\t')).count());
    if bytes.get(brace) != Some(&b'{') {
        return Ok(open);
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate().skip(brace) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
    }
    Err("labels without a closing brace".into())
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::from_bits(0x7ff8_0000_0000_0001)),
        _ => text.parse().ok(),
    }
}

fn time(text: &str, format: Format) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time");
    match format {
        Format::Text => text.parse().map_err(|_| wrong()),
        Format::OpenMetrics => {
            let seconds: f64 = text.parse().map_err(|_| wrong())?;
            if seconds.is_finite() { Ok((seconds * 1000.0) as i64) } else { Err(wrong()) }
        }
    }
}

fn parse_exemplar(text: &str) -> Result<Exemplar<'_>, String> {
    let text = text.trim_start();
    let end = series_end(text)?;
    let (labels, rest) = text.split_at(end);
    let labels = labels_in(labels)?;
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().and_then(number).ok_or("an exemplar without a value")?;
    let t = words.next().map(|t| time(t, Format::OpenMetrics)).transpose()?;
    Ok(Exemplar { labels, value, t })
}

/// Name and labels of a series as it stands in the text.
pub fn parse_series(series: &str) -> Result<Pairs<'_>, String> {
    let Some(at) = series.find('{') else {
        let name = series.trim();
        return if is_metric_name(name) {
            Ok(vec![(METRIC_NAME.into(), name.into())])
        } else {
            Err(format!("{name:?} is no name of a metric"))
        };
    };
    let (name, braces) = series.split_at(at);
    let name = name.trim();
    let mut pairs = labels_in(braces)?;
    if !name.is_empty() {
        if !is_metric_name(name) {
            return Err(format!("{name:?} is no name of a metric"));
        }
        pairs.push((METRIC_NAME.into(), name.into()));
    }
    if pairs.iter().filter(|(n, _)| n == METRIC_NAME).count() != 1 {
        return Err("a sample needs exactly one metric name".into());
    }
    Ok(pairs)
}

fn labels_in(braces: &str) -> Result<Pairs<'_>, String> {
    let mut rest = braces.strip_prefix('{').unwrap_or(braces).trim_start();
    let mut pairs = Pairs::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return if after.trim().is_empty() {
                Ok(pairs)
            } else {
                Err(format!("unexpected {after:?} behind labels"))
            };
        }
        if pairs.len() >= LABEL_LIMIT {
            return Err(format!("more than {LABEL_LIMIT} labels"));
        }
        // A quoted name may be the metric itself, `{"metric.name"}`, or a label, `{"label.name"="value"}`.
        let (name, after, was_quoted) = if rest.starts_with('"') {
            let (name, after) = quoted(rest)?;
            (name, after.trim_start(), true)
        } else {
            let end = rest.find(['=', '}', ',', ' ', '\t', '"']).ok_or("labels are cut short")?;
            let (name, after) = rest.split_at(end);
            if !is_label_name(name) {
                return Err(format!("{name:?} is no name of a label"));
            }
            (Cow::Borrowed(name), after.trim_start(), false)
        };
        rest = match after.strip_prefix('=') {
            Some(after) => {
                let (value, after) = quoted(after.trim_start())?;
                if pairs.iter().any(|(known, _)| *known == name) {
                    return Err(format!("the label {name:?} stands twice"));
                }
                pairs.push((name, value));
                after.trim_start()
            }
            None if was_quoted => {
                pairs.push((METRIC_NAME.into(), name));
                after
            }
            None => return Err(format!("the label {name:?} has no value")),
        };
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return Err("labels must be parted by commas".into()),
        };
    }
}

fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let inner = text.strip_prefix('"').ok_or("a label's value must be quoted")?;
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((unescape(&inner[..at]), &inner[at + 1..])),
            _ => {}
        }
    }
    Err("a quoted text does not end".into())
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('"') => out.push('"'),
                Some('\\') | None => out.push('\\'),
                Some(other) => out.extend(['\\', other]),
            },
            (c, false) => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str, format: Format) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        parse(text, format, |line| {
            if let Line::Sample(s) = &line {
                let mut pairs = parse_series(s.series)?;
                pairs.sort();
                let exemplar =
                    s.exemplar.as_ref().map(|e| format!(" # {:?} {} {:?}", e.labels, e.value, e.t));
                out.push(format!("{pairs:?} {} {:?}{}", s.value, s.t, exemplar.unwrap_or_default()));
            }
            Ok(())
        })
        .map_err(|e| e.to_string())?;
        Ok(out)
    }

    #[test]
    fn both_formats() {
        let text = "# HELP a help \\n x\n# TYPE a counter\na 1\na{x=\"1\",} 2 1000\n\
                    a {x=\"q}\\\"\\\\\\n\" , y=\"\"}  +Inf\n{\"b.c\",\"d e\"=\"f\"} NaN\n\n# note\nc 1e3";
        let got = samples(text, Format::Text).unwrap();
        assert_eq!(got[0], r#"[("__name__", "a")] 1 None"#);
        assert_eq!(got[1], r#"[("__name__", "a"), ("x", "1")] 2 Some(1000)"#);
        assert_eq!(got[2], r#"[("__name__", "a"), ("x", "q}\"\\\n"), ("y", "")] inf None"#);
        assert_eq!(got[3], r#"[("__name__", "b.c"), ("d e", "f")] NaN None"#);
        assert_eq!(got[4], r#"[("__name__", "c")] 1000 None"#);
        let open = "a_bucket{le=\"1\"} 3 1.5 # {trace_id=\"x\"} 0.7 1.25\n# EOF\n";
        assert_eq!(
            samples(open, Format::OpenMetrics).unwrap(),
            [r#"[("__name__", "a_bucket"), ("le", "1")] 3 Some(1500) # [("trace_id", "x")] 0.7 Some(1250)"#]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, want) in [
            ("a 1\nb", "line 2: a sample without a value"),
            ("a{x=\"1\" 1", "line 1: labels without a closing brace"),
            ("a{x=1} 1", "line 1: a label's value must be quoted"),
            ("a{x=\"1\",x=\"2\"} 1", "line 1: the label \"x\" stands twice"),
            ("1a 1", "line 1: \"1a\" is no name of a metric"),
            ("a one", "line 1: \"one\" is no number"),
            ("a 1 2 3", "line 1: unexpected \"3\" behind the sample"),
        ] {
            assert_eq!(samples(text, Format::Text).unwrap_err(), want, "{text}");
        }
        assert!(samples("a 1\n", Format::OpenMetrics).unwrap_err().contains("# EOF"));
        assert!(samples("# EOF\na 1\n", Format::OpenMetrics).unwrap_err().contains("after # EOF"));
    }
}
