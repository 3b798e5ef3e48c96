//! AnalysisRuns as JSON, and the verdict on one metric.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Timestamp;
use wharf_control::{Meta, meta::null_default};

use super::{
    ERROR_LIMIT,
    condition::{Datum, holds},
};

/// `argoproj.io/v1alpha1.AnalysisRun`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalysisRun {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: AnalysisRunSpec,
    /// What was found.
    #[serde(deserialize_with = "null_default")]
    pub status: AnalysisRunStatus,
}

/// Its spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalysisRunSpec {
    /// What is measured.
    #[serde(deserialize_with = "null_default")]
    pub metrics: Vec<Metric>,
    /// Values put in the place of `{{args.NAME}}`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
    /// Ends it as it stands.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub terminate: bool,
}

/// A named value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Argument {
    /// Name.
    pub name: String,
    /// Value; a template may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_from: Option<Value>,
}

/// One thing to measure.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// Name, unique in its run.
    pub name: String,
    /// Time between measurements; a single one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Time before the first measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<String>,
    /// How many measurements; without end when there is an interval, otherwise one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Value>,
    /// When a result is good.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub success_condition: String,
    /// When a result is bad.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub failure_condition: String,
    /// Bad results that are forgiven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_limit: Option<Value>,
    /// Results neither good nor bad that are forgiven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inconclusive_limit: Option<Value>,
    /// Errors in a row that are forgiven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_error_limit: Option<Value>,
    /// Good results in a row that are enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_success_limit: Option<Value>,
    /// Where the number comes from.
    #[serde(deserialize_with = "null_default")]
    pub provider: Provider,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where a number comes from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Provider {
    /// A PromQL query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Providers not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A PromQL query.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prometheus {
    /// A server's address; the platform's own metrics when empty.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The query.
    pub query: String,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalysisRunStatus {
    /// How it stands.
    pub phase: Phase,
    /// Why.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Per metric.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub metric_results: Vec<MetricResult>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
}

/// How a run, a metric or a measurement stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Phase {
    /// Not begun.
    #[default]
    #[serde(alias = "")]
    Pending,
    /// Under way.
    Running,
    /// Good.
    Successful,
    /// Bad.
    Failed,
    /// Could not be measured.
    Error,
    /// Neither good nor bad.
    Inconclusive,
}

impl Phase {
    /// Nothing more will happen.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Pending | Self::Running => 0,
            Self::Successful => 1,
            Self::Inconclusive => 2,
            Self::Error => 3,
            Self::Failed => 4,
        }
    }
}

/// What was found for one metric.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricResult {
    /// Name.
    pub name: String,
    /// How it stands.
    pub phase: Phase,
    /// Why.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The newest measurements, oldest first.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
    /// Measurements without errors.
    pub count: i64,
    /// Good ones.
    pub successful: i64,
    /// Bad ones.
    pub failed: i64,
    /// Neither good nor bad ones.
    pub inconclusive: i64,
    /// Errors.
    pub error: i64,
    /// Errors in a row.
    pub consecutive_error: i64,
    /// Good ones in a row.
    pub consecutive_success: i64,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Measurement {
    /// How it stands.
    pub phase: Phase,
    /// The result as text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Why there is none.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

impl AnalysisRunStatus {
    /// What was found for a metric.
    pub fn result(&self, metric: &str) -> Option<&MetricResult> {
        self.metric_results.iter().find(|r| r.name == metric)
    }

    pub(super) fn result_mut(&mut self, metric: &str) -> &mut MetricResult {
        let at = self.metric_results.iter().position(|r| r.name == metric).unwrap_or_else(|| {
            let result =
                MetricResult { name: metric.to_owned(), phase: Phase::Running, ..MetricResult::default() };
            self.metric_results.push(result);
            self.metric_results.len() - 1
        });
        &mut self.metric_results[at]
    }
}

impl MetricResult {
    /// Measurements that count towards the wanted number.
    pub(super) fn counted(&self) -> i64 {
        self.successful + self.failed + self.inconclusive
    }

    pub(super) fn count(&mut self, phase: Phase, message: &str) {
        (self.consecutive_error, self.consecutive_success) = match phase {
            Phase::Error => (self.consecutive_error + 1, 0),
            Phase::Successful => (0, self.consecutive_success + 1),
            _ => (0, 0),
        };
        match phase {
            Phase::Successful => self.successful += 1,
            Phase::Failed => self.failed += 1,
            Phase::Inconclusive => self.inconclusive += 1,
            _ => self.error += 1,
        }
        self.count = self.counted();
        message.clone_into(&mut self.message);
    }

    /// What is said of a run that this metric ends.
    pub(super) fn verdict(&self) -> String {
        let (what, times) = match self.phase {
            Phase::Failed => ("failed", self.failed),
            Phase::Inconclusive => ("was inconclusive", self.inconclusive),
            _ => ("could not be measured", self.consecutive_error),
        };
        let newest = self.measurements.last();
        let value = newest.map(|m| &m.value).filter(|v| !v.is_empty()).map(|v| format!(", at last {v}"));
        let why = Some(&self.message).filter(|m| !m.is_empty()).map(|m| format!(": {m}"));
        format!(
            "metric {:?} {what} {times} times{}{}",
            self.name,
            value.unwrap_or_default(),
            why.unwrap_or_default()
        )
    }
}

impl Metric {
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval.as_deref().and_then(duration)
    }

    pub(super) fn initial_delay(&self) -> Option<Duration> {
        self.initial_delay.as_deref().and_then(duration)
    }

    /// How many measurements are wanted; nothing when there is no end.
    pub(super) fn effective_count(&self) -> Option<i64> {
        match number(self.count.as_ref()) {
            Some(count) if count > 0 => Some(count),
            _ if self.interval.is_none() => Some(1),
            _ => None,
        }
    }

    /// What makes the metric unusable.
    pub(super) fn problem(&self) -> Option<String> {
        let bad_time = |name: &str, text: &Option<String>| {
            let text = text.as_deref()?;
            duration(text).is_none().then(|| {
                format!("metric {:?}: {name} {text:?} is not a duration such as 30s or 5m", self.name)
            })
        };
        if let Some(problem) =
            bad_time("interval", &self.interval).or_else(|| bad_time("initialDelay", &self.initial_delay))
        {
            return Some(problem);
        }
        if let Some(name) = self.other.keys().next() {
            return Some(format!("metric {:?}: field {name:?} is not supported", self.name));
        }
        match (&self.provider.prometheus, self.provider.other.keys().next()) {
            (_, Some(name)) => {
                Some(format!("metric {:?}: provider {name:?} is not supported; prometheus is", self.name))
            }
            (None, None) => Some(format!("metric {:?} names no provider", self.name)),
            (Some(prometheus), None) if prometheus.query.trim().is_empty() => {
                Some(format!("metric {:?}: the query is empty", self.name))
            }
            _ => None,
        }
    }

    /// What a result says.
    pub(super) fn judge(&self, result: &Datum) -> Result<Phase, String> {
        let (good, bad) = (self.success_condition.trim(), self.failure_condition.trim());
        let failed = !bad.is_empty() && holds(bad, result)?;
        let succeeded = !good.is_empty() && holds(good, result)?;
        Ok(match (good.is_empty(), bad.is_empty()) {
            _ if failed => Phase::Failed,
            _ if succeeded => Phase::Successful,
            (true, _) => Phase::Successful,
            (false, true) => Phase::Failed,
            (false, false) => Phase::Inconclusive,
        })
    }

    /// How the metric stands after the measurements so far.
    pub(super) fn assess(&self, result: &MetricResult) -> Phase {
        let limit = |value: &Option<Value>, usual| number(value.as_ref()).unwrap_or(usual);
        if result.failed > limit(&self.failure_limit, 0) {
            return Phase::Failed;
        }
        if result.inconclusive > limit(&self.inconclusive_limit, 0) {
            return Phase::Inconclusive;
        }
        if result.consecutive_error > limit(&self.consecutive_error_limit, ERROR_LIMIT) {
            return Phase::Error;
        }
        let enough = limit(&self.consecutive_success_limit, 0);
        if enough > 0 && result.consecutive_success >= enough {
            return Phase::Successful;
        }
        match self.effective_count() {
            Some(count) if result.counted() >= count => Phase::Successful,
            _ => Phase::Running,
        }
    }
}

/// A number, or its text.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(n) => n.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A Go duration of hours, minutes, seconds and milliseconds, such as `1m30s`, or whole seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest.get(..digits)?.parse().ok()?;
        let unit_length =
            rest.get(digits..)?.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = match rest.get(digits..digits + unit_length)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(amount * unit).ok()?;
        rest = rest.get(digits + unit_length..)?;
    }
    (!text.is_empty()).then_some(total)
}
