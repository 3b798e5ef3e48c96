//! PromQL: parse and evaluate.
//!
//! The language and its results are those of Prometheus 3 for floats. Native histograms are not stored, so functions
//! over them find nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::metrics::{Labels, Matcher, Metrics, MetricsError, Point};

mod aggregate;
mod annotations;
mod ast;
mod binary;
mod calendar;
mod check;
mod eval;
mod functions;
mod histogram;
mod info;
mod lex;
mod parse;
mod prepare;
mod print;
mod range;
mod series;
mod vector;

pub use ast::ValueType;
pub use print::{format_value, pretty};

/// A part of the query, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte behind the last one.
    pub end: usize,
}

impl Span {
    /// `line:column`, both from 1.
    pub fn place(self, query: &str) -> String {
        let before = query.get(..self.start.min(query.len())).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        format!("{line}:{column}")
    }
}

/// A query that cannot be understood. Small, since every frame of the parser's recursion has room for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: parse error: {what}")]
pub struct ParseError {
    /// `line:column`.
    pub place: Box<str>,
    /// What is wrong.
    pub what: Box<str>,
    /// What may be meant; not a part of what is displayed, which is Prometheus' own.
    pub hint: Option<Box<str>>,
}

impl ParseError {
    fn new(input: &str, span: Span, what: impl Into<String>) -> Self {
        Self { place: span.place(input).into(), what: what.into().into(), hint: None }
    }
}

/// A query that could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It cannot be understood.
    #[error("{0}")]
    Parse(#[from] ParseError),
    /// It makes no sense on these series.
    #[error("{0}")]
    Execution(String),
    /// It took too long.
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// The asker went away.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// It needs too much memory.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// The store failed.
    #[error("expanding series: {0}")]
    Store(#[from] MetricsError),
}

/// How queries are evaluated.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// How old the newest sample of a series may be.
    pub lookback: Duration,
    /// Step of subqueries without one.
    pub default_step: Duration,
    /// More samples than this in memory at once are refused.
    pub max_samples: usize,
    /// Until when an answer is wanted.
    pub deadline: Option<Instant>,
    /// Set from elsewhere when nobody waits any more.
    pub canceled: Option<Arc<AtomicBool>>,
    /// Metric names are dropped only at the end (Prometheus' `promql-delayed-name-removal`).
    pub delayed_name_removal: bool,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            lookback: Duration::from_secs(300),
            default_step: Duration::from_secs(60),
            max_samples: 50_000_000,
            deadline: None,
            canceled: None,
            delayed_name_removal: false,
        }
    }
}

/// A series of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its samples in order of time.
    pub points: Vec<Point>,
}

/// An answer's value.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryValue {
    /// A number at a time.
    Scalar(Point),
    /// A text at a time.
    String(i64, String),
    /// Series with one sample each.
    Vector(Vec<(Labels, Point)>),
    /// Series with samples over a range, sorted by labels.
    Matrix(Vec<ResultSeries>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryResult {
    /// The value.
    pub value: QueryValue,
    /// What may be wrong with it.
    pub warnings: Vec<String>,
    /// What is worth knowing.
    pub infos: Vec<String>,
}

/// A parsed query.
#[derive(Debug, Clone)]
pub struct Query {
    text: String,
    expr: ast::Expr,
}

impl Query {
    /// Parses and checks a query.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Ok(Self { text: text.to_string(), expr: parse::parse(text)? })
    }

    /// What it gives.
    pub fn value_type(&self) -> ValueType {
        self.expr.value_type()
    }

    /// The matchers of each selector in it.
    pub fn selectors(&self) -> Vec<Vec<Matcher>> {
        let mut out = Vec::new();
        prepare::walk(&self.expr, &mut |expr| match expr {
            ast::Expr::Vector(selector) => out.push(selector.matchers.clone()),
            ast::Expr::Matrix(range) => out.push(range.selector.matchers.clone()),
            _ => {}
        });
        out
    }

    /// Evaluates at one time, in milliseconds since the epoch.
    pub fn instant(
        &self,
        source: &dyn Source,
        time: i64,
        options: &QueryOptions,
    ) -> Result<QueryResult, QueryError> {
        eval::instant(self, source, time, options)
    }

    /// Evaluates at every step from `start` to `end`.
    pub fn range(
        &self,
        source: &dyn Source,
        (start, end, step): (i64, i64, i64),
        options: &QueryOptions,
    ) -> Result<QueryResult, QueryError> {
        eval::range(self, source, (start, end, step), options)
    }
}

/// The matchers of a selector such as the API's `match[]`.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    parse::parse_selector(text)
}

/// Milliseconds of a duration such as `1h30m`.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    lex::duration_ms(text)
}

/// Takes a series and its samples, which it may empty.
pub type Each<'a> = &'a mut dyn FnMut(&Labels, &mut Vec<Point>) -> Result<(), QueryError>;

/// Where series come from.
pub trait Source: Send + Sync {
    /// Calls `each` with every series that passes all matchers and its samples within both ends.
    fn each(&self, matchers: &[Matcher], ends: (i64, i64), each: Each<'_>) -> Result<(), QueryError>;
}

impl Source for Metrics {
    fn each(&self, matchers: &[Matcher], (from, to): (i64, i64), each: Each<'_>) -> Result<(), QueryError> {
        let set = self.select(matchers, from, to)?;
        let mut points = Vec::new();
        for series in set.series() {
            series.read(from, to, &mut points)?;
            each(series.labels(), &mut points)?;
        }
        Ok(())
    }
}
