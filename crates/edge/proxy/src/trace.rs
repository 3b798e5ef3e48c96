//! Trace contexts (W3C Trace Context, level 1) and the spans of requests.

use std::{
    cell::Cell,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request that has ended, as a span.
#[derive(Debug, Clone)]
pub struct RequestSpan {
    /// Trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id: the parent of what the application records.
    pub span_id: [u8; 8],
    /// Span of the client, where it sent one.
    pub parent: Option<[u8; 8]>,
    /// When the request's head was there.
    pub start: SystemTime,
    /// Until the response's end.
    pub duration: Duration,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Pod that answered; empty when none did.
    pub pod: Arc<str>,
    /// Version of the pod.
    pub version: Arc<str>,
    /// Method.
    pub method: &'static str,
    /// Path without its query.
    pub path: String,
    /// Status of the response; 499 when the client left before it.
    pub status: u16,
}

/// Where a request stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Trace.
    pub trace_id: [u8; 16],
    /// The proxy's span.
    pub span_id: [u8; 8],
    /// The client's span.
    pub parent: Option<[u8; 8]>,
    flags: u8,
}

impl Context {
    /// Goes on with the trace of these headers, or starts one.
    pub fn of(headers: &HeaderMap) -> Self {
        let span_id = random().to_be_bytes();
        let mut given = headers.get_all(&TRACEPARENT).iter();
        let single = match (given.next(), given.next()) {
            (Some(value), None) => value.to_str().ok().and_then(parse),
            _ => None,
        };
        match single {
            Some((trace_id, parent, flags)) => Self { trace_id, span_id, parent: Some(parent), flags },
            None => {
                let trace_id = (u128::from(random()) << 64 | u128::from(random())).to_be_bytes();
                Self { trace_id, span_id, parent: None, flags: 1 }
            }
        }
    }

    /// Whether its spans are wanted.
    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Makes this the context of what follows. The state of a trace that starts here is nobody's.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        hex(&mut text, &self.trace_id);
        text.push('-');
        hex(&mut text, &self.span_id);
        let _ = write!(text, "-{:02x}", self.flags);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        if self.parent.is_none() {
            headers.remove("tracestate");
        }
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

/// `version-traceid-parentid-flags`; later versions may have more after the flags.
fn parse(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut parts = text.trim().split('-');
    let version = parts.next().filter(|version| version.len() == 2 && *version != "ff")?;
    let [_] = bytes::<1>(version)?;
    let trace_id = bytes::<16>(parts.next()?)?;
    let parent = bytes::<8>(parts.next()?)?;
    let [flags] = bytes::<1>(parts.next()?)?;
    let ends = version != "00" || parts.next().is_none();
    (ends && trace_id != [0; 16] && parent != [0; 8]).then_some((trace_id, parent, flags & 1))
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
    }
    Some(bytes)
}

thread_local! {
    static STATE: Cell<u64> = Cell::new(
        u64::from_str_radix(&wharf_base::random_hex(8), 16).unwrap_or(0x9E37_79B9_7F4A_7C15),
    );
}

/// A number nobody relies on being secret (SplitMix64); never zero.
fn random() -> u64 {
    let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(good));
        headers.insert("tracestate", HeaderValue::from_static("a=b"));
        let context = Context::of(&headers);
        assert_eq!(context.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        context.write(&mut headers);
        let written = headers["traceparent"].to_str().unwrap();
        assert!(written.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && written.ends_with("-01"));
        assert!(!written.contains("b7ad6b7169203331"));
        assert_eq!(headers["tracestate"], "a=b");
        for bad in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some());
    }
}
