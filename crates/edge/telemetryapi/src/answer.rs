//! What the query APIs have in common: parameters in, JSON out.

use std::collections::BTreeMap;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::Value;
use wharf_http::{Body, collect, full};

/// Bytes of a form at the most.
const MAX_FORM: usize = 1 << 20;

/// Parameters of the query and of a form in the body, several values for a name in order.
#[derive(Debug, Default)]
pub(crate) struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    pub(crate) async fn of(request: Request<Body>) -> Result<Self, String> {
        let (parts, body) = request.into_parts();
        let mut params = Self::default();
        params.add(parts.uri.query().unwrap_or_default().as_bytes());
        let form = parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        if parts.method == Method::POST && form {
            let body = collect(body, MAX_FORM).await.map_err(|e| e.to_string())?;
            params.add(&body);
        }
        Ok(params)
    }

    fn add(&mut self, encoded: &[u8]) {
        for (name, value) in form_urlencoded::parse(encoded) {
            self.0.entry(name.into_owned()).or_default().push(value.into_owned());
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|v| !v.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

pub(crate) fn json(status: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text(status: u16, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
