//! `info()`: adds the labels of info metrics, such as `target_info`, to series of the same target.

use std::collections::{BTreeMap, HashMap};

use super::QueryError;
use super::ast::*;
use super::eval::Evaluator;
use super::series::{Cursor, Matrix, Series};
use crate::metrics::{Labels, METRIC_NAME, MatchOp, Matcher, Point};

const IDENTITY: [&str; 2] = ["instance", "job"];

fn identity(labels: &Labels) -> Labels {
    labels.filter(|name| IDENTITY.contains(&name))
}

/// Which metrics are info metrics: what the matchers ask for, narrowed to `*_info` when they only exclude.
fn name_matchers(given: Vec<Matcher>) -> Vec<Matcher> {
    if given.is_empty() {
        return vec![Matcher::equal(METRIC_NAME, "target_info")];
    }
    let positive = given.iter().any(|m| matches!(m.op, MatchOp::Equal | MatchOp::Regex));
    let mut out = given;
    if !positive && let Ok(any) = Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info") {
        out.push(any);
    }
    out
}

/// Offset and time of the first selector, with those of the subqueries around it.
fn place(expr: &Expr) -> Option<(i64, Option<At>)> {
    match expr {
        Expr::Vector(selector) => Some((selector.offset.ms(), selector.at)),
        Expr::Matrix(range) => Some((range.selector.offset.ms(), range.selector.at)),
        Expr::Subquery(sub) => {
            let (offset, at) = place(&sub.expr)?;
            Some(if at.is_some() { (offset, at) } else { (offset + sub.offset.ms(), sub.at) })
        }
        Expr::Paren(inner, _) | Expr::Invariant(inner) | Expr::Unary { expr: inner, .. } => place(inner),
        Expr::Aggregate(aggregate) => place(&aggregate.expr),
        Expr::Binary(binary) => place(&binary.left).or_else(|| place(&binary.right)),
        Expr::Call(call) => call.args.iter().find_map(place),
        Expr::Number { .. } | Expr::String { .. } => None,
    }
}

impl Evaluator<'_> {
    pub(crate) fn info(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let base = self.argument(call, 0)?;
        let given = match call.args.get(1).map(Expr::bare) {
            Some(Expr::Vector(selector)) => selector.matchers.clone(),
            _ => vec![],
        };
        let (names, data): (Vec<Matcher>, Vec<Matcher>) =
            given.into_iter().partition(|m| m.name == METRIC_NAME);
        let names = name_matchers(names);
        // Info metrics themselves stay as they are.
        let own: Vec<bool> = base.iter().map(|s| names.iter().all(|m| m.matches(s.labels.name()))).collect();
        let targets: Vec<&Series> = base.iter().zip(&own).filter(|(_, own)| !**own).map(|(s, _)| s).collect();
        let infos = self.info_series(call, &targets, &names, &data)?;
        self.join(&base, &own, &infos, &data)
    }

    fn info_series(
        &mut self,
        call: &Call,
        targets: &[&Series],
        names: &[Matcher],
        data: &[Matcher],
    ) -> Result<Matrix, QueryError> {
        let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for name in IDENTITY {
            for series in targets {
                let value = regex::escape(series.labels.get(name));
                if !value.is_empty() && !values.get(name).is_some_and(|known| known.contains(&value)) {
                    values.entry(name).or_default().push(value);
                }
            }
        }
        if values.is_empty() {
            return Ok(Matrix::new());
        }
        let mut matchers: Vec<Matcher> = names.iter().chain(data).cloned().collect();
        for (name, values) in values {
            let matcher =
                Matcher::new(MatchOp::Regex, name, values.join("|")).map_err(QueryError::Execution)?;
            matchers.push(matcher);
        }
        // Info metrics are read at the times of the first selector.
        let (offset, at) = call.args.first().and_then(place).unwrap_or_default();
        let offset = Length::Fixed(offset);
        let selector = Selector {
            name: String::new(),
            matchers,
            offset,
            at,
            anchored: false,
            smoothed: false,
            span: call.span,
        };
        self.selector(&selector, true)
    }

    fn join(
        &self,
        base: &[Series],
        own: &[bool],
        infos: &[Series],
        data: &[Matcher],
    ) -> Result<Matrix, QueryError> {
        let mut by_target: HashMap<(String, Labels), Vec<usize>> = HashMap::new();
        for (i, info) in infos.iter().enumerate() {
            by_target.entry((info.labels.name().to_string(), identity(&info.labels))).or_default().push(i);
        }
        let mut names: Vec<String> = by_target.keys().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let ids: Vec<Labels> = base.iter().map(|s| identity(&s.labels)).collect();
        let optional = data.iter().all(|m| m.matches(""));
        let (mut base_cursor, mut info_cursor) = (Cursor::new(base), Cursor::new(infos));
        let mut out = Vec::new();
        for t in self.times() {
            self.check()?;
            // The value of an info series here is the time of its sample.
            let current: HashMap<usize, f64> =
                info_cursor.step(t).map(|(i, _, own_time)| (i, own_time)).collect();
            for (i, series, v) in base_cursor.step(t) {
                let point = Point { t, v };
                if own.get(i) == Some(&true) {
                    out.push((series.labels.clone(), series.drop_name, point));
                    continue;
                }
                let mut added: BTreeMap<String, String> = BTreeMap::new();
                let mut joined = false;
                for name in &names {
                    let key = (name.clone(), ids.get(i).cloned().unwrap_or_default());
                    let candidates = by_target.get(&key).map_or(&[][..], Vec::as_slice);
                    let Some(info) = newest(candidates, &current, infos)? else { continue };
                    joined = true;
                    take_labels(&info.labels, &series.labels, data, &mut added)?;
                }
                if !joined && !optional {
                    continue;
                }
                let labels = added.iter().fold(series.labels.clone(), |labels, (n, v)| labels.with(n, v));
                out.push((labels, series.drop_name, point));
            }
        }
        self.collect(out)
    }
}

fn newest<'a>(
    candidates: &[usize],
    current: &HashMap<usize, f64>,
    infos: &'a [Series],
) -> Result<Option<&'a Series>, QueryError> {
    let mut best: Option<(f64, &Series)> = None;
    for at in candidates {
        let (Some(time), Some(series)) = (current.get(at), infos.get(*at)) else { continue };
        match best {
            Some((known, other)) if known == *time => {
                let ms = (time * 1000.0) as i64;
                return Err(QueryError::Execution(format!(
                    "found duplicate series for info metric: existing {} @ {ms}, new {} @ {ms}",
                    other.labels.as_set(),
                    series.labels.as_set()
                )));
            }
            Some((known, _)) if known > *time => {}
            _ => best = Some((*time, series)),
        }
    }
    Ok(best.map(|(_, series)| series))
}

fn take_labels(
    info: &Labels,
    base: &Labels,
    data: &[Matcher],
    added: &mut BTreeMap<String, String>,
) -> Result<(), QueryError> {
    for (name, value) in info.iter().filter(|(name, _)| *name != METRIC_NAME) {
        if !data.is_empty() && !data.iter().any(|m| m.name == name) {
            continue;
        }
        if added.get(name).is_some_and(|known| known != value) {
            return Err(QueryError::Execution(format!("conflicting label: {name}")));
        }
        if base.get(name).is_empty() {
            added.insert(name.to_string(), value.to_string());
        }
    }
    Ok(())
}
