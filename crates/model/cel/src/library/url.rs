//! URLs: Kubernetes' `pkg/cel/library/urls.go`. Absolute URLs and absolute paths only.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Outcome, Row, no_overload};
use crate::{
    error::EvalError,
    value::{Map, OwnedMap, Value},
};

pub(super) const ROWS: &[Row] = &[
    ("url", "string_to_url", "(string) -> url", |args| match args {
        [Value::String(text)] => Url::parse(text).map(|url| Value::Url(Arc::new(url))).map_err(|why| {
            EvalError::new(format!(
                "URL parse error during conversion from string: parse {:?}: {why}",
                &**text
            ))
        }),
        _ => no_overload(),
    }),
    ("isURL", "is_url_string", "(string) -> bool", |args| match args {
        [Value::String(text)] => Ok(Value::Bool(Url::parse(text).is_ok())),
        _ => no_overload(),
    }),
    ("getScheme", "url_get_scheme", "url.() -> string", |args| part(args, |url| url.scheme.clone())),
    ("getHost", "url_get_host", "url.() -> string", |args| part(args, |url| url.host.clone())),
    ("getHostname", "url_get_hostname", "url.() -> string", |args| {
        part(args, |url| url.hostname().to_owned())
    }),
    ("getPort", "url_get_port", "url.() -> string", |args| part(args, |url| url.port().to_owned())),
    ("getEscapedPath", "url_get_escaped_path", "url.() -> string", |args| part(args, Url::escaped_path)),
    ("getQuery", "url_get_query", "url.() -> map(string, list(string))", query),
];

/// A URL in its parts, as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// How many bytes there are to go through.
    pub(crate) fn len(&self) -> usize {
        self.query.len()
    }

    /// A URL, or why the text is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        if scheme.is_empty() && !rest.starts_with('/') && text != "*" {
            return Err("invalid URI for request".to_owned());
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Without a slash after the scheme there is neither host nor path (`mailto:a@b`).
        let rest = if scheme.is_empty() || rest.starts_with('/') { rest } else { "" };
        let authority = if scheme.is_empty() { None } else { rest.strip_prefix("//") };
        let (host, path) = match authority {
            Some(authority) => {
                let end = authority.find('/').unwrap_or(authority.len());
                let (authority, path) = authority.split_at(end);
                (host(authority)?, path)
            }
            None => (String::new(), rest),
        };
        escapes(path)?;
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host,
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    fn hostname(&self) -> &str {
        if let Some(end) = self.host.find(']') {
            return self.host.get(1..end).unwrap_or_default();
        }
        self.host.split(':').next().unwrap_or_default()
    }

    fn port(&self) -> &str {
        let after = self.host.find(']').map_or(0, |end| end + 1);
        self.host.get(after..).and_then(|rest| rest.split_once(':')).map_or("", |(_, port)| port)
    }

    /// The path with what may not stand in one escaped.
    fn escaped_path(&self) -> String {
        let mut out = String::new();
        for b in self.path.bytes() {
            if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn host(authority: &str) -> Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = match host.strip_prefix('[') {
        Some(inner) => {
            let Some((_, port)) = inner.split_once(']') else {
                return Err("missing ']' in host".to_owned());
            };
            port
        }
        None => host.find(':').and_then(|i| host.get(i..)).unwrap_or_default(),
    };
    let digits = port.strip_prefix(':').map_or(port.is_empty(), |p| p.bytes().all(|b| b.is_ascii_digit()));
    if !digits {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(c) = host.chars().find(|c| " \"<>\\^`{|}".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", c.to_string()));
    }
    escapes(host)?;
    unescaped(host, false).ok_or_else(|| "invalid host".to_owned())
}

/// Every `%` is followed by two hexadecimal digits.
fn escapes(text: &str) -> Result<(), String> {
    for (i, _) in text.match_indices('%') {
        let sequence: String = text.get(i..).unwrap_or_default().chars().take(3).collect();
        let hex = sequence.len() == 3 && sequence.bytes().skip(1).all(|b| b.is_ascii_hexdigit());
        if !hex {
            return Err(format!("invalid URL escape {sequence:?}"));
        }
    }
    Ok(())
}

fn unescaped(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' if plus => b' ',
            b'%' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let digit = |b: u8| char::from(b).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

fn part<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Outcome<'a> {
    match args {
        [Value::Url(url)] => Ok(Value::string(part(url))),
        _ => no_overload(),
    }
}

/// Parameters with all their values; what is not well formed is left out.
fn query<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Url(url)] = args else { return no_overload() };
    let mut parameters: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (unescaped(name, true), unescaped(value, true)) else { continue };
        parameters.entry(name).or_default().push(Value::string(value));
    }
    let mut map = OwnedMap::default();
    for (name, values) in parameters {
        map.insert(Value::string(name), Value::list(values))?;
    }
    Ok(Value::Map(Map::made(map)))
}
