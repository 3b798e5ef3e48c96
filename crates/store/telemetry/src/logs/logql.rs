//! LogQL, as far as it goes here: a stream selector with line filters, and counts of such lines over time.
//!
//! ```text
//! {namespace="shop", pod=~"web-.+"} |= "error" != "debug" |~ "code=5.."
//! sum by (pod) (rate({namespace="shop"} |= "error" [1m]))
//! ```
//! Parsers (`| json`), label filters and formats are refused by name.

use std::time::Duration;

use regex::Regex;

use crate::metrics::{MatchOp, Matcher};

/// Longest query in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// A condition on a line.
#[derive(Debug, Clone)]
pub struct LineFilter {
    negated: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Contains(String),
    Regex(Regex),
}

impl LineFilter {
    /// Lines that contain a text.
    pub fn contains(text: &str) -> Self {
        Self { negated: false, test: Test::Contains(text.to_owned()) }
    }

    /// Does this line pass?
    pub fn accepts(&self, line: &str) -> bool {
        let found = match &self.test {
            Test::Contains(text) => line.contains(text.as_str()),
            Test::Regex(regex) => regex.is_match(line),
        };
        found != self.negated
    }
}

/// A query.
#[derive(Debug, Clone)]
pub enum LogQl {
    /// Lines.
    Lines(Pipeline),
    /// Numbers.
    Metric(MetricQuery),
}

/// A stream selector with line filters.
#[derive(Debug, Clone, Default)]
pub struct Pipeline {
    /// Which streams.
    pub matchers: Vec<Matcher>,
    /// Which lines.
    pub filters: Vec<LineFilter>,
}

/// Counts of lines over time.
#[derive(Debug, Clone)]
pub struct MetricQuery {
    /// Which lines.
    pub pipeline: Pipeline,
    /// The time looked back over at each step.
    pub range: Duration,
    /// What is counted.
    pub function: RangeFunction,
    /// Labels that are kept when sums are made; `None` leaves every stream alone.
    pub sum_by: Option<Vec<String>>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeFunction {
    /// Lines.
    CountOverTime,
    /// Lines a second.
    Rate,
    /// Bytes.
    BytesOverTime,
    /// Bytes a second.
    BytesRate,
}

/// A query that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse error at line 1, col {column}: {what}")]
pub struct ParseError {
    /// Where, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

/// Reads a query.
///
/// # Errors
/// With place and reason, when it is no query or asks for what is not supported.
pub fn parse(text: &str) -> Result<LogQl, ParseError> {
    if text.len() > MAX_LENGTH {
        return Err(ParseError { column: 1, what: format!("the query is longer than {MAX_LENGTH} bytes") });
    }
    let mut parser = Parser { text, at: 0 };
    parser.space();
    let query = match parser.peek() {
        Some('{') => LogQl::Lines(parser.pipeline()?),
        _ => LogQl::Metric(parser.metric()?),
    };
    parser.space();
    match parser.peek() {
        None => Ok(query),
        Some(_) => Err(parser.error("unexpected text behind the query")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, what: impl Into<String>) -> ParseError {
        ParseError { column: self.text.get(..self.at).unwrap_or("").chars().count() + 1, what: what.into() }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.eat(token) {
            return Ok(());
        }
        Err(self.error(match self.peek() {
            Some(c) => format!("unexpected {c:?}, expected {token:?}"),
            None => format!("unexpected end, expected {token:?}"),
        }))
    }

    fn name(&mut self) -> Result<&'a str, ParseError> {
        self.space();
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if length == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error("a name is missing"));
        }
        self.at += length;
        Ok(rest.get(..length).unwrap_or(""))
    }

    fn string(&mut self) -> Result<String, ParseError> {
        self.space();
        let quote = self.peek().filter(|c| matches!(c, '"' | '`'));
        let quote = quote.ok_or_else(|| self.error("a text in quotes is missing"))?;
        let mut text = String::new();
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((index, c)) = characters.next() {
            match c {
                c if c == quote => {
                    self.at += index + 1;
                    return Ok(text);
                }
                '\\' if quote == '"' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, c @ ('\\' | '"' | '\''))) => text.push(c),
                    _ => return Err(self.error("an escape that is not known; backquotes need none")),
                },
                c => text.push(c),
            }
        }
        Err(self.error("the text has no end"))
    }

    fn pipeline(&mut self) -> Result<Pipeline, ParseError> {
        let mut pipeline = Pipeline::default();
        self.expect("{")?;
        while !self.eat("}") {
            let name = self.name()?;
            let op = [
                ("=~", MatchOp::Regex),
                ("!~", MatchOp::NotRegex),
                ("!=", MatchOp::NotEqual),
                ("=", MatchOp::Equal),
            ];
            let op = op.iter().find(|(token, _)| self.eat(token)).map(|(_, op)| *op);
            let op = op.ok_or_else(|| self.error("expected one of = != =~ !~"))?;
            let value = self.string()?;
            pipeline.matchers.push(Matcher::new(op, name, value).map_err(|e| self.error(e))?);
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        if pipeline.matchers.iter().all(|m| m.matches("")) {
            let what = "queries require at least one matcher that does not match the empty text";
            return Err(ParseError { column: 1, what: what.into() });
        }
        loop {
            let kinds = [("|=", false, false), ("|~", false, true), ("!=", true, false), ("!~", true, true)];
            if let Some((_, negated, regex)) = kinds.into_iter().find(|(token, ..)| self.eat(token)) {
                let text = self.string()?;
                let test = match regex {
                    false => Test::Contains(text),
                    true => Test::Regex(
                        regex::RegexBuilder::new(&text)
                            .size_limit(4 << 20)
                            .build()
                            .map_err(|e| self.error(e.to_string().replace('\n', " ")))?,
                    ),
                };
                pipeline.filters.push(LineFilter { negated, test });
            } else if self.eat("|") {
                let stage = self.name().unwrap_or("this stage");
                return Err(self.error(format!("{stage:?} after \"|\" is not supported; |= != |~ !~ are")));
            } else {
                return Ok(pipeline);
            }
        }
    }

    fn metric(&mut self) -> Result<MetricQuery, ParseError> {
        let start = self.at;
        let name = self.name()?;
        if name == "sum" {
            let mut by = self.grouping()?;
            self.expect("(")?;
            let mut inner = self.metric()?;
            self.expect(")")?;
            if by.is_none() {
                by = self.grouping()?;
            }
            inner.sum_by = Some(by.unwrap_or_default());
            return Ok(inner);
        }
        let function = match name {
            "count_over_time" => RangeFunction::CountOverTime,
            "rate" => RangeFunction::Rate,
            "bytes_over_time" => RangeFunction::BytesOverTime,
            "bytes_rate" => RangeFunction::BytesRate,
            other => {
                self.at = start;
                let known = "sum, count_over_time, rate, bytes_over_time, bytes_rate";
                return Err(self.error(format!("{other:?} is not supported; {known} are")));
            }
        };
        self.expect("(")?;
        let pipeline = self.pipeline()?;
        self.expect("[")?;
        let length = self.rest().find(']').ok_or_else(|| self.error("\"]\" is missing"))?;
        let text = self.rest().get(..length).unwrap_or("").trim();
        let range =
            duration(text).ok_or_else(|| self.error(format!("{text:?} is no duration such as 30s or 5m")))?;
        self.at += length + 1;
        self.expect(")")?;
        Ok(MetricQuery { pipeline, range, function, sum_by: None })
    }

    fn grouping(&mut self) -> Result<Option<Vec<String>>, ParseError> {
        if !self.eat("by") {
            return Ok(None);
        }
        self.expect("(")?;
        let mut labels = Vec::new();
        while !self.eat(")") {
            labels.push(self.name()?.to_owned());
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(Some(labels))
    }
}

/// A duration such as `1h30m`, `15s` or `500ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, millis) =
            [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.get(unit.len()..)?;
        total = total.checked_add(Duration::from_millis(amount.checked_mul(millis)?))?;
    }
    (!total.is_zero()).then_some(total)
}
