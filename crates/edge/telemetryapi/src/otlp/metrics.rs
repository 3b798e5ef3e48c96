//! Exported metrics as series, named as Prometheus' own OTLP receiver names them ("OTLP metric to Prometheus
//! translation" of the OpenTelemetry specification).

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint, metric::Data,
        number_data_point::Value,
    },
};
use wharf_telemetry::metrics::{Labels, METRIC_NAME, Metrics, stale};

use super::{
    Failure, Refused,
    attributes::{Origin, pairs},
};

/// A data point's flag for "no value".
const NO_RECORDED_VALUE: u32 = 1;

pub(super) fn keep(metrics: &Metrics, export: ExportMetricsServiceRequest) -> Result<Refused, Failure> {
    let mut refused = Refused::default();
    let mut samples = Vec::new();
    for group in export.resource_metrics {
        let origin = Origin::of(group.resource.as_ref());
        for metric in group.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            Series { origin: &origin, samples: &mut samples, refused: &mut refused }.add(metric);
        }
    }
    let appended = metrics.append(&samples).map_err(|e| Failure::Store(e.to_string()))?;
    let late = appended.out_of_order + appended.duplicate + appended.too_old + appended.too_new;
    if late > 0 {
        refused.add(
            late as i64,
            "samples must be newer than the newest of their series, and not from the future",
        );
    }
    Ok(refused)
}

struct Series<'a> {
    origin: &'a Origin,
    samples: &'a mut Vec<(Labels, i64, f64)>,
    refused: &'a mut Refused,
}

impl Series<'_> {
    fn add(&mut self, metric: Metric) {
        let count = points(metric.data.as_ref());
        let delta = AggregationTemporality::Delta as i32;
        match &metric.data {
            Some(Data::Gauge(gauge)) => {
                let name = name(&metric, false);
                gauge.data_points.iter().for_each(|point| self.number(&name, point));
            }
            Some(Data::Sum(sum)) if sum.aggregation_temporality == delta => self.refuse_delta(&metric, count),
            Some(Data::Sum(sum)) => {
                let name = name(&metric, sum.is_monotonic);
                sum.data_points.iter().for_each(|point| self.number(&name, point));
            }
            Some(Data::Histogram(histogram)) if histogram.aggregation_temporality == delta => {
                self.refuse_delta(&metric, count);
            }
            Some(Data::Histogram(histogram)) => {
                let name = name(&metric, false);
                histogram.data_points.iter().for_each(|point| self.histogram(&name, point));
            }
            Some(Data::Summary(summary)) => {
                let name = name(&metric, false);
                summary.data_points.iter().for_each(|point| self.summary(&name, point));
            }
            Some(Data::ExponentialHistogram(_)) => self.refused.add(
                count,
                format!("{}: exponential histograms are not kept; use explicit buckets", metric.name),
            ),
            None => {}
        }
    }

    fn refuse_delta(&mut self, metric: &Metric, count: i64) {
        let why = format!(
            "{}: delta temporality is not kept; set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative",
            metric.name
        );
        self.refused.add(count, why);
    }

    fn push(
        &mut self,
        name: String,
        attributes: &[KeyValue],
        extra: Option<(&str, String)>,
        at: u64,
        value: f64,
    ) {
        let attributes = pairs(attributes);
        let named: Vec<(String, String)> = attributes.into_iter().map(|(n, v)| (label(&n), v)).collect();
        let own = [(METRIC_NAME, name.as_str()), ("job", self.origin.service())];
        let instance =
            Some(("instance", self.origin.get("service.instance.id"))).filter(|(_, v)| !v.is_empty());
        let labels = own
            .into_iter()
            .chain(instance)
            .chain(self.origin.labels())
            .chain(extra.as_ref().map(|(n, v)| (*n, v.as_str())))
            .chain(named.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let at = i64::try_from(at / 1_000_000).unwrap_or(i64::MAX);
        self.samples.push((Labels::from_pairs(labels), at, value));
    }

    fn number(&mut self, name: &str, point: &NumberDataPoint) {
        let value = match point.value {
            _ if point.flags & NO_RECORDED_VALUE != 0 => stale(),
            Some(Value::AsDouble(value)) => value,
            Some(Value::AsInt(value)) => value as f64,
            None => return self.refused.add(1, format!("{name}: a data point without a value")),
        };
        self.push(name.to_owned(), &point.attributes, None, point.time_unix_nano, value);
    }

    fn histogram(&mut self, name: &str, point: &HistogramDataPoint) {
        let (attributes, at) = (&point.attributes, point.time_unix_nano);
        let gone = point.flags & NO_RECORDED_VALUE != 0;
        let value = |value: f64| if gone { stale() } else { value };
        let mut total = 0_u64;
        let bounds = point.explicit_bounds.iter().map(|bound| bound.to_string());
        for (bound, count) in bounds.zip(&point.bucket_counts) {
            total = total.saturating_add(*count);
            self.push(format!("{name}_bucket"), attributes, Some(("le", bound)), at, value(total as f64));
        }
        let all = value(point.count as f64);
        self.push(format!("{name}_bucket"), attributes, Some(("le", "+Inf".to_owned())), at, all);
        self.push(format!("{name}_count"), attributes, None, at, all);
        if let Some(sum) = point.sum {
            self.push(format!("{name}_sum"), attributes, None, at, value(sum));
        }
    }

    fn summary(&mut self, name: &str, point: &SummaryDataPoint) {
        let (attributes, at) = (&point.attributes, point.time_unix_nano);
        for quantile in &point.quantile_values {
            let label = Some(("quantile", quantile.quantile.to_string()));
            self.push(name.to_owned(), attributes, label, at, quantile.value);
        }
        self.push(format!("{name}_count"), attributes, None, at, point.count as f64);
        self.push(format!("{name}_sum"), attributes, None, at, point.sum);
    }
}

fn points(data: Option<&Data>) -> i64 {
    let count = match data {
        Some(Data::Gauge(d)) => d.data_points.len(),
        Some(Data::Sum(d)) => d.data_points.len(),
        Some(Data::Histogram(d)) => d.data_points.len(),
        Some(Data::ExponentialHistogram(d)) => d.data_points.len(),
        Some(Data::Summary(d)) => d.data_points.len(),
        None => 0,
    };
    count as i64
}

/// A name of letters, digits and underscores, with the unit and, for counters, `_total` at its end.
fn name(metric: &Metric, counter: bool) -> String {
    let mut name = label(&metric.name);
    let unit = match metric.unit.as_str() {
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "min" => "minutes",
        "h" => "hours",
        "d" => "days",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "%" => "percent",
        "1" if !counter && matches!(metric.data, Some(Data::Gauge(_))) => "ratio",
        _ => "",
    };
    let base = name.strip_suffix("_total").unwrap_or(&name);
    if !unit.is_empty() && !base.ends_with(unit) {
        name = format!("{base}_{unit}");
    }
    if counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

fn label(text: &str) -> String {
    let mut name: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}
