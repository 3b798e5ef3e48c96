//! Tempo's query API, below the prefix the caller has taken off: `/api/traces/ID`, `/api/search`, tags.

use std::sync::Arc;

use http::{Method, Request, Response};
use serde_json::{Map, Value, json};
use wharf_http::Body;
use wharf_telemetry::{
    logs::logql::duration,
    traces::{Kind, Search, Span, StatusCode, Traces},
};

use crate::answer::{Params, json as answer, text};

const LIMIT: usize = 20;
const MAX_LIMIT: usize = 1000;
const SECOND: i64 = 1_000_000_000;
/// Searched back over when no start is given.
const DEFAULT_RANGE: i64 = 3600 * SECOND;

/// The API.
#[derive(Clone)]
pub struct Tempo {
    traces: Arc<Traces>,
}

struct Refusal(u16, String);

type Answer = Result<Response<Body>, Refusal>;

impl Tempo {
    /// Over a store.
    pub fn new(traces: Arc<Traces>) -> Self {
        Self { traces }
    }

    /// Answers a request; `path` is what follows the prefix.
    pub async fn handle(&self, path: &str, request: Request<Body>) -> Response<Body> {
        if request.method() != Method::GET {
            return text(405, "this API is read with GET");
        }
        let Ok(params) = Params::of(request).await else { return text(400, "the query cannot be read") };
        let (api, path) = (self.clone(), path.trim_end_matches('/').to_owned());
        let work = tokio::task::spawn_blocking(move || api.answer(&path, &params));
        match work.await {
            Ok(Ok(response)) => response,
            Ok(Err(Refusal(status, why))) => text(status, &why),
            Err(error) => text(500, &error.to_string()),
        }
    }

    fn answer(&self, path: &str, params: &Params) -> Answer {
        match path {
            "/api/echo" => Ok(text(200, "echo")),
            "/ready" => Ok(text(200, "ready")),
            "/api/status/buildinfo" => Ok(answer(200, &json!({"version": env!("CARGO_PKG_VERSION")}))),
            "/api/search" => self.search(params),
            "/api/search/tags" | "/api/v2/search/tags" => Ok(answer(
                200,
                &json!({"tagNames": ["service.name", "name", "status", "duration"],
                    "scopes": [{"name": "resource", "tags": ["service.name"]}]}),
            )),
            "/api/search/tag/service.name/values"
            | "/api/v2/search/tag/service.name/values"
            | "/api/v2/search/tag/resource.service.name/values" => {
                let services = self.traces.services();
                let typed: Vec<Value> =
                    services.iter().map(|s| json!({"type": "string", "value": s})).collect();
                match path.starts_with("/api/v2") {
                    true => Ok(answer(200, &json!({"tagValues": typed}))),
                    false => Ok(answer(200, &json!({"tagValues": services}))),
                }
            }
            other => {
                match other.strip_prefix("/api/traces/").or_else(|| other.strip_prefix("/api/v2/traces/")) {
                    Some(id) => self.trace(id, other.starts_with("/api/v2")),
                    None => Err(Refusal(404, format!("there is no {other} in this API"))),
                }
            }
        }
    }

    fn trace(&self, id: &str, v2: bool) -> Answer {
        let id = id.parse().map_err(|e| Refusal(400, e))?;
        let spans = self.traces.trace(id).map_err(|e| Refusal(500, e.to_string()))?;
        if spans.is_empty() {
            return Err(Refusal(404, format!("trace not found: {id}")));
        }
        let batches = batches(&spans);
        Ok(match v2 {
            true => answer(200, &json!({"trace": {"resourceSpans": batches}})),
            false => answer(200, &json!({"batches": batches})),
        })
    }

    fn search(&self, params: &Params) -> Answer {
        let bad = |text: String| Refusal(400, text);
        let mut search = Search { limit: LIMIT, to: i64::MAX, ..Search::default() };
        let number = |name: &str| {
            params
                .get(name)
                .map(|t| t.parse::<i64>().map_err(|_| bad(format!("{name}: {t:?} is no number"))))
                .transpose()
        };
        if let Some(limit) = number("limit")? {
            search.limit = usize::try_from(limit).unwrap_or(1).clamp(1, MAX_LIMIT);
        }
        if let Some(end) = number("end")? {
            search.to = end.saturating_mul(SECOND);
            search.from = search.to.saturating_sub(DEFAULT_RANGE);
        }
        if let Some(start) = number("start")? {
            search.from = start.saturating_mul(SECOND);
        }
        let length = |name: &str| -> Result<Option<u64>, Refusal> {
            let Some(text) = params.get(name) else { return Ok(None) };
            let length = duration(text)
                .ok_or_else(|| bad(format!("{name}: {text:?} is no duration such as 100ms")))?;
            Ok(Some(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
        };
        search.min_duration = length("minDuration")?;
        search.max_duration = length("maxDuration")?;
        for (name, value) in params.get("tags").map(tags).transpose().map_err(bad)?.unwrap_or_default() {
            condition(&mut search, name, value);
        }
        if let Some(query) = params.get("q") {
            for (name, value) in traceql(query).map_err(bad)? {
                condition(&mut search, name, value);
            }
        }
        let found = self.traces.search(&search).map_err(|e| Refusal(500, e.to_string()))?;
        let traces: Vec<Value> = found
            .iter()
            .map(|trace| {
                json!({"traceID": trace.trace_id.to_string(), "rootServiceName": trace.root_service,
                    "rootTraceName": trace.root_name, "startTimeUnixNano": trace.start.to_string(),
                    "durationMs": trace.duration / 1_000_000, "spanCount": trace.spans, "errorCount": trace.failed})
            })
            .collect();
        Ok(answer(200, &json!({"traces": traces, "metrics": {}})))
    }
}

fn condition(search: &mut Search, name: String, value: String) {
    match name.as_str() {
        "service.name" | "resource.service.name" => search.service = value,
        "name" => search.name = value,
        "status" | "error" => search.failed = matches!(value.as_str(), "error" | "true"),
        _ => {
            let plain = ["span.", "resource.", "."].iter().find_map(|prefix| name.strip_prefix(prefix));
            search.attributes.push((plain.unwrap_or(&name).to_owned(), value));
        }
    }
}

/// `a=b c="d e"`, as logfmt.
fn tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut tags = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let word = rest.split(' ').next().unwrap_or(rest);
        let wrong =
            |what: &str| format!("tags: {what} at {word:?}: write NAME=VALUE, with quotes around blanks");
        let name = word.split('=').next().unwrap_or_default();
        let after = rest.get(name.len()..).and_then(|rest| rest.strip_prefix('='));
        let after = after.ok_or_else(|| wrong("'=' is missing"))?;
        let (value, following) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| wrong("a quote is not closed"))?,
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        if name.is_empty() || value.is_empty() {
            return Err(wrong(if name.is_empty() { "a name is missing" } else { "a value is missing" }));
        }
        tags.push((name.to_owned(), value.to_owned()));
        rest = following.trim_start();
    }
    Ok(tags)
}

/// What may be asked of spans besides attributes.
const INTRINSICS: [&str; 2] = ["name", "status"];

/// The part of TraceQL that is conditions joined by `&&` in one pair of braces, each an equality.
fn traceql(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut reader = Reader { text, at: 0 };
    reader.sign("{", "begin with '{', as in { resource.service.name = \"shop\" && status = error }")?;
    let mut conditions = Vec::new();
    if !reader.accept("}") {
        loop {
            conditions.push(reader.condition()?);
            if !reader.accept("&&") {
                break;
            }
        }
        reader.sign("}", "only '&&' joins conditions, and '}' ends them")?;
    }
    match reader.rest() {
        "" => Ok(conditions),
        _ => Err(reader.wrong("nothing may follow '}' here")),
    }
}

/// Reads a query from its beginning.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed.trim_end()
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn sign(&mut self, sign: &str, hint: &str) -> Result<(), String> {
        if self.accept(sign) { Ok(()) } else { Err(self.wrong(hint)) }
    }

    /// What is wrong where it is now.
    fn wrong(&mut self, why: &str) -> String {
        let found = match self.rest().chars().next() {
            Some(_) => format!("at {:?}", self.rest().chars().take(20).collect::<String>()),
            None => "at its end".to_owned(),
        };
        let place = 1 + self.text.get(..self.at).map_or(0, |before| before.chars().count());
        format!("{:?}: character {place}, {found}: {why}", self.text)
    }

    /// What stands before the next blank or sign, and is not read yet.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || "=!<>&|(){}\"`".contains(c)).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    /// `NAME = VALUE`.
    fn condition(&mut self) -> Result<(String, String), String> {
        let name = self.word();
        if name.is_empty() {
            return Err(self.wrong("a name is missing: write for example span.http.route = \"/x\""));
        }
        let scoped = ["span.", "resource.", "."].iter().find_map(|scope| name.strip_prefix(scope));
        if scoped == Some("") || (scoped.is_none() && !INTRINSICS.contains(&name)) {
            let known = INTRINSICS.join(" and ");
            return Err(self.wrong(&format!(
                "there is no '{name}' of spans: known are {known}; attributes are written .NAME, span.NAME or resource.NAME"
            )));
        }
        self.at += name.len();
        if !self.rest().starts_with('=') || self.rest().starts_with("=~") {
            return Err(self.wrong("only '=' compares here"));
        }
        self.at += 1;
        self.rest();
        let begin = self.at;
        let value = self.value()?;
        if name == "status" && value != "error" {
            self.at = begin;
            return Err(self.wrong("only 'status = error' is supported"));
        }
        Ok((name.to_owned(), value))
    }

    fn value(&mut self) -> Result<String, String> {
        const MISSING: &str = "a value is missing: write a text in quotes, such as \"shop\", or a number";
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '`')) {
            let Some((value, _)) = rest.get(1..).and_then(|inner| inner.split_once(quote)) else {
                return Err(self.wrong("the quote is not closed"));
            };
            self.at += value.len() + 2;
            return Ok(value.to_owned());
        }
        match self.word() {
            "" => Err(self.wrong(MISSING)),
            value => {
                self.at += value.len();
                Ok(value.to_owned())
            }
        }
    }
}

/// Spans in OTLP's JSON, one batch per resource.
fn batches(spans: &[Arc<Span>]) -> Vec<Value> {
    let mut groups: Vec<(&Span, Vec<Value>)> = Vec::new();
    for span in spans {
        match groups
            .iter_mut()
            .find(|(first, _)| first.resource == span.resource && first.service == span.service)
        {
            Some((_, group)) => group.push(otlp(span)),
            None => groups.push((span, vec![otlp(span)])),
        }
    }
    groups
        .into_iter()
        .map(|(first, spans)| {
            let mut resource = first.resource.clone();
            if !resource.iter().any(|(name, _)| name == "service.name") {
                resource.insert(0, ("service.name".to_owned(), first.service.clone()));
            }
            json!({"resource": {"attributes": attributes(&resource)},
                "scopeSpans": [{"scope": {}, "spans": spans}]})
        })
        .collect()
}

fn attributes(pairs: &[(String, String)]) -> Vec<Value> {
    pairs.iter().map(|(name, value)| json!({"key": name, "value": {"stringValue": value}})).collect()
}

fn otlp(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Unspecified => "SPAN_KIND_UNSPECIFIED",
        Kind::Internal => "SPAN_KIND_INTERNAL",
        Kind::Server => "SPAN_KIND_SERVER",
        Kind::Client => "SPAN_KIND_CLIENT",
        Kind::Producer => "SPAN_KIND_PRODUCER",
        Kind::Consumer => "SPAN_KIND_CONSUMER",
    };
    let status = match span.status {
        StatusCode::Unset => json!({}),
        StatusCode::Ok => json!({"code": "STATUS_CODE_OK"}),
        StatusCode::Error => json!({"code": "STATUS_CODE_ERROR", "message": span.status_message}),
    };
    let events: Vec<Value> = span
        .events
        .iter()
        .map(|e| json!({"timeUnixNano": e.at.to_string(), "name": e.name, "attributes": attributes(&e.attributes)}))
        .collect();
    let mut object = json!({
        "traceId": span.trace_id.to_string(), "spanId": span.span_id.to_string(), "name": span.name, "kind": kind,
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.start.saturating_add_unsigned(span.duration).to_string(),
        "attributes": attributes(&span.attributes), "status": status,
    });
    let more: Map<String, Value> = [
        ("parentSpanId", (span.parent.0 != [0; 8]).then(|| span.parent.to_string().into())),
        ("events", (!events.is_empty()).then_some(Value::Array(events))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    if let Value::Object(fields) = &mut object {
        fields.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    use wharf_http::{collect, full};
    use wharf_telemetry::traces::{Options, SpanId, TraceId};

    use super::*;

    async fn call(tempo: &Tempo, uri: &str) -> (u16, Value) {
        let request = Request::get(uri).body(full("")).unwrap();
        let path = request.uri().path().to_owned();
        let response = tempo.handle(&path, request).await;
        let status = response.status().as_u16();
        let body = collect(response.into_body(), 1 << 20).await.unwrap();
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or_else(|_| String::from_utf8_lossy(&body).trim().into()))
    }

    #[tokio::test]
    async fn traces_are_found_by_id_and_service() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::open(dir.path(), Options::default()).unwrap();
        let span = |id: u8, parent: u8, service: &str| Span {
            trace_id: TraceId([0xab; 16]),
            span_id: SpanId([id; 8]),
            parent: SpanId([parent; 8]),
            service: service.into(),
            name: format!("op{id}"),
            start: 1000 * SECOND + i64::from(id),
            duration: 5_000_000,
            attributes: vec![("http.route".into(), "/x".into())],
            ..Span::default()
        };
        traces.append(vec![span(1, 0, "shop"), span(2, 1, "pay")]).unwrap();
        let tempo = Tempo::new(traces);
        let (status, trace) = call(&tempo, "/api/traces/abababababababababababababababab").await;
        assert_eq!((status, trace["batches"].as_array().unwrap().len()), (200, 2));
        assert_eq!(trace["batches"][1]["scopeSpans"][0]["spans"][0]["parentSpanId"], "0101010101010101");
        assert_eq!(call(&tempo, "/api/traces/1").await.0, 404);
        assert_eq!(call(&tempo, "/api/traces/nothex").await.0, 400);
        for (query, expect) in [
            ("tags=service.name%3Dpay", 1),
            ("tags=service.name%3Dpay+http.route%3D%22/y%22", 0),
            ("q=%7Bresource.service.name%3D%22shop%22%20%26%26%20span.http.route%3D%22/x%22%7D", 1),
            ("start=990&end=1001&minDuration=1ms", 1),
            ("minDuration=6ms", 0),
        ] {
            let (status, found) = call(&tempo, &format!("/api/search?{query}")).await;
            assert_eq!(
                (status, found["traces"].as_array().map(Vec::len)),
                (200, Some(expect)),
                "{query}: {found}"
            );
        }
        let (status, why) = call(&tempo, "/api/search?q=%7Ba%3E1%7D").await;
        assert_eq!(status, 400, "{why}");
        for (query, expect) in [
            ("q=%7B%20.a%20=%20%7D", "character 8, at \"}\": a value is missing"),
            (
                "q=%7B%20foo=%22bar%22%20%7D",
                "character 3, at \"foo=\\\"bar\\\" }\": there is no 'foo' of spans: known are name and status",
            ),
            ("tags=foo", "'=' is missing at \"foo\""),
        ] {
            let (status, why) = call(&tempo, &format!("/api/search?{query}")).await;
            assert_eq!(status, 400, "{query}: {why}");
            assert!(why.as_str().is_some_and(|why| why.contains(expect)), "{query}: {why}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_query_is_told_with_its_place() {
        let good = |text: &str| traceql(text).unwrap();
        assert_eq!(good("{}"), []);
        assert_eq!(
            good("{ resource.service.name = \"a && b}\" && .x=1 && name=`y` && status=error }"),
            [("resource.service.name", "a && b}"), (".x", "1"), ("name", "y"), ("status", "error")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        for (text, expect) in [
            ("", "character 1, at its end: begin with '{'"),
            ("{ .a = }", "character 8, at \"}\": a value is missing"),
            ("{ .a = \"x }", "the quote is not closed"),
            ("{ = 1 }", "a name is missing"),
            ("{ . = 1 }", "there is no '.' of spans"),
            ("{ .a != 1 }", "character 6, at \"!= 1 }\": only '=' compares here"),
            ("{ .a =~ 1 }", "only '=' compares here"),
            ("{ .a = 1 || .b = 2 }", "only '&&' joins conditions"),
            ("{ .a = 1", "at its end: only '&&' joins conditions, and '}' ends them"),
            ("{ .a = 1 } | count() > 1", "nothing may follow '}' here"),
            ("{ status = ok }", "character 12, at \"ok }\": only 'status = error' is supported"),
            ("{ duration = 1s }", "there is no 'duration' of spans"),
        ] {
            let why = traceql(text).unwrap_err();
            assert!(why.contains(expect), "{text}: {why}");
        }
        for (text, expect) in [
            ("a", "'=' is missing"),
            ("=b", "a name is missing"),
            ("a=\"b", "a quote is not closed"),
            ("a=1 b", "at \"b\""),
            ("a=", "a value is missing"),
        ] {
            let why = tags(text).unwrap_err();
            assert!(why.contains(expect), "{text}: {why}");
        }
    }
}
