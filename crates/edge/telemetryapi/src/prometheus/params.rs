//! Request parameters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wharf_telemetry::metrics::Matcher;
use wharf_telemetry::promql::{parse_duration, parse_selector};

use super::ApiError;

const PAIR_LIMIT: usize = 1000;

/// Milliseconds since the epoch.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[derive(Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn add(&mut self, encoded: &[u8]) -> Result<(), ApiError> {
        self.0
            .extend(form_urlencoded::parse(encoded).take(PAIR_LIMIT + 1).map(|(k, v)| (k.into(), v.into())));
        if self.0.len() > PAIR_LIMIT {
            return Err(ApiError::bad(format!("more than {PAIR_LIMIT} parameters")));
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.given(name).map(|text| parse_time(text).map_err(|e| ApiError::parameter(name, e))).transpose()
    }

    pub(super) fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        self.time(name)?.ok_or_else(|| ApiError::parameter(name, "cannot parse \"\" to a valid timestamp"))
    }

    pub(super) fn duration_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.given(name) else { return Ok(None) };
        let wrong = || ApiError::parameter(name, format!("cannot parse {text:?} to a valid duration"));
        if let Ok(seconds) = text.parse::<f64>() {
            if !seconds.is_finite() || seconds.abs() > 1e12 {
                return Err(wrong());
            }
            return Ok(Some((seconds * 1000.0) as i64));
        }
        parse_duration(text).map(|ms| Some(ms as i64)).map_err(|_| wrong())
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        Ok(self.duration_ms(name)?.map(|ms| Duration::from_millis(ms.max(0) as u64)))
    }

    /// 0 is no limit.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.given("limit") else { return Ok(0) };
        text.parse().map_err(|_| ApiError::parameter("limit", "limit must be non-negative"))
    }

    pub(super) fn selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        self.all("match[]")
            .map(|text| parse_selector(text).map_err(|e| ApiError::parameter("match[]", e)))
            .collect()
    }
}

fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("cannot parse {text:?} to a valid timestamp");
    if let Ok(seconds) = text.parse::<f64>() {
        if !seconds.is_finite() || seconds.abs() > 9e12 {
            return Err(wrong());
        }
        return Ok((seconds * 1000.0).round() as i64);
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    Ok(time.as_millisecond())
}

/// A label's name in a path: percent-encoded, or in Prometheus' `U__` form.
pub(super) fn label_name(text: &str) -> Result<String, ApiError> {
    let decoded = form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    let name = match decoded.strip_prefix("U__") {
        Some(escaped) => unescape(escaped).unwrap_or(decoded),
        None => decoded,
    };
    if name.is_empty() { Err(ApiError::bad("invalid label name: \"\"")) } else { Ok(name) }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('_') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let after = after.get(1..)?;
        if let Some(after) = after.strip_prefix('_') {
            out.push('_');
            rest = after;
        } else {
            let (code, after) = after.split_once('_')?;
            out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
            rest = after;
        }
    }
    out.push_str(rest);
    Some(out)
}
