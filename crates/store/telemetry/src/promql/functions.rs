//! The table of functions.

use super::ast::ValueType::{self, Matrix, Scalar, String as Text, Vector};
use super::range::{self, Window};

/// What a function does.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// On each value by itself.
    Each(fn(f64) -> f64),
    /// On the samples of a range; scalar arguments come in order.
    Range(fn(&Window<'_>) -> Result<Option<f64>, String>),
    /// On seconds since the epoch; without argument on the time of the step.
    Date(fn(i64) -> f64),
    /// Has its own evaluation, by name.
    Special,
    /// Works on native histograms only, which are not stored: finds nothing.
    NativeOnly,
}

/// A function's signature.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [ValueType],
    /// 0: none; above: how many of the last arguments may be missing or added; below: any number.
    pub(crate) variadic: i32,
    pub(crate) returns: ValueType,
    pub(crate) action: Action,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn of(
    name: &'static str,
    args: &'static [ValueType],
    variadic: i32,
    returns: ValueType,
    action: Action,
) -> Function {
    Function { name, args, variadic, returns, action }
}

const fn each(name: &'static str, action: fn(f64) -> f64) -> Function {
    of(name, &[Vector], 0, Vector, Action::Each(action))
}

const fn over(name: &'static str, action: fn(&Window<'_>) -> Result<Option<f64>, String>) -> Function {
    of(name, &[Matrix], 0, Vector, Action::Range(action))
}

const fn date(name: &'static str, action: fn(i64) -> f64) -> Function {
    of(name, &[Vector], 1, Vector, Action::Date(action))
}

const fn special(
    name: &'static str,
    args: &'static [ValueType],
    variadic: i32,
    returns: ValueType,
) -> Function {
    of(name, args, variadic, returns, Action::Special)
}

const fn native(name: &'static str) -> Function {
    of(name, &[Vector], 0, Vector, Action::NativeOnly)
}

use super::calendar::{date as at, days_in_month};

static FUNCTIONS: &[Function] = &[
    each("abs", f64::abs),
    special("absent", &[Vector], 0, Vector),
    over("absent_over_time", |_| Ok(Some(1.0))),
    each("acos", f64::acos),
    each("acosh", acosh),
    each("asin", f64::asin),
    each("asinh", asinh),
    each("atan", f64::atan),
    each("atanh", f64::atanh),
    over("avg_over_time", range::avg),
    each("ceil", f64::ceil),
    over("changes", range::changes),
    special("clamp", &[Vector, Scalar, Scalar], 0, Vector),
    special("clamp_max", &[Vector, Scalar], 0, Vector),
    special("clamp_min", &[Vector, Scalar], 0, Vector),
    each("cos", f64::cos),
    each("cosh", f64::cosh),
    over("count_over_time", |w| Ok(Some(w.points.len() as f64))),
    date("days_in_month", |s| days_in_month(at(s).year, at(s).month) as f64),
    date("day_of_month", |s| at(s).day as f64),
    date("day_of_week", |s| at(s).weekday as f64),
    date("day_of_year", |s| at(s).year_day as f64),
    each("deg", |v| v * 180.0 / std::f64::consts::PI),
    over("delta", range::delta),
    over("deriv", range::deriv),
    of("double_exponential_smoothing", &[Matrix, Scalar, Scalar], 0, Vector, Action::Range(range::smoothing)),
    special("end", &[], 0, Scalar),
    each("exp", f64::exp),
    over("first_over_time", |w| Ok(w.points.first().map(|p| p.v))),
    each("floor", f64::floor),
    native("histogram_avg"),
    native("histogram_count"),
    special("histogram_fraction", &[Scalar, Scalar, Vector], 0, Vector),
    special("histogram_quantile", &[Scalar, Vector], 0, Vector),
    special("histogram_quantiles", &[Vector, Text, Scalar, Scalar], -1, Vector),
    native("histogram_stddev"),
    native("histogram_stdvar"),
    native("histogram_sum"),
    // Prometheus 2's name of double_exponential_smoothing.
    of("holt_winters", &[Matrix, Scalar, Scalar], 0, Vector, Action::Range(range::smoothing)),
    date("hour", |s| at(s).hour as f64),
    over("idelta", range::idelta),
    over("increase", range::increase),
    special("info", &[Vector, Vector], 1, Vector),
    over("irate", range::irate),
    special("label_join", &[Vector, Text, Text, Text], -1, Vector),
    special("label_replace", &[Vector, Text, Text, Text, Text], 0, Vector),
    over("last_over_time", |w| Ok(w.points.last().map(|p| p.v))),
    each("ln", f64::ln),
    each("log10", f64::log10),
    each("log2", f64::log2),
    over("mad_over_time", range::mad),
    special("max_of", &[Scalar, Scalar], 0, Scalar),
    over("max_over_time", range::max),
    special("min_of", &[Scalar, Scalar], 0, Scalar),
    over("min_over_time", range::min),
    date("minute", |s| at(s).minute as f64),
    date("month", |s| at(s).month as f64),
    special("pi", &[], 0, Scalar),
    of("predict_linear", &[Matrix, Scalar], 0, Vector, Action::Range(range::predict_linear)),
    over("present_over_time", |_| Ok(Some(1.0))),
    of("quantile_over_time", &[Scalar, Matrix], 0, Vector, Action::Range(range::quantile_over_time)),
    each("rad", |v| v * std::f64::consts::PI / 180.0),
    special("range", &[], 0, Scalar),
    over("rate", range::rate),
    over("resets", range::resets),
    special("round", &[Vector, Scalar], 1, Vector),
    special("scalar", &[Vector], 0, Scalar),
    each("sgn", |v| {
        if v < 0.0 {
            -1.0
        } else if v > 0.0 {
            1.0
        } else {
            v
        }
    }),
    each("sin", f64::sin),
    each("sinh", f64::sinh),
    special("sort", &[Vector], 0, Vector),
    special("sort_by_label", &[Vector, Text], -1, Vector),
    special("sort_by_label_desc", &[Vector, Text], -1, Vector),
    special("sort_desc", &[Vector], 0, Vector),
    each("sqrt", f64::sqrt),
    special("start", &[], 0, Scalar),
    over("stddev_over_time", |w| Ok(Some(range::variance(w.points).sqrt()))),
    over("stdvar_over_time", |w| Ok(Some(range::variance(w.points)))),
    special("step", &[], 0, Scalar),
    over("sum_over_time", range::sum),
    each("tan", f64::tan),
    each("tanh", f64::tanh),
    special("time", &[], 0, Scalar),
    special("timestamp", &[Vector], 0, Vector),
    over("ts_of_first_over_time", |w| Ok(w.points.first().map(|p| p.t as f64 / 1000.0))),
    over("ts_of_last_over_time", |w| Ok(w.points.last().map(|p| p.t as f64 / 1000.0))),
    over("ts_of_max_over_time", range::ts_of_max),
    over("ts_of_min_over_time", range::ts_of_min),
    special("vector", &[Scalar], 0, Vector),
    date("year", |s| at(s).year as f64),
];

// Rust's own lose the last digits far from zero.
fn asinh(v: f64) -> f64 {
    if v.abs() > 1e8 || !v.is_finite() {
        (v.abs().ln() + std::f64::consts::LN_2).copysign(v)
    } else {
        v.asinh()
    }
}

fn acosh(v: f64) -> f64 {
    if v > 1e8 { v.ln() + std::f64::consts::LN_2 } else { v.acosh() }
}

/// The names of all functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name)
}

/// By name; words that are keywords too are known in any case.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    let keyword =
        ["start", "end", "step", "range", "min_of", "max_of"].iter().find(|k| k.eq_ignore_ascii_case(name));
    let name = keyword.copied().unwrap_or(name);
    FUNCTIONS.iter().find(|function| function.name == name)
}
