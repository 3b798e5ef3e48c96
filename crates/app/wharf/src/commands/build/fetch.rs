//! Files over HTTP for builds: redirects are followed, the body is read as it comes.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use wharf_base::Hinted;
use wharf_build::{Fetch, FetchRequest, FetchResponse};
use wharf_http::{Body, client::Client};

const MAX_REDIRECTS: usize = 10;
/// For the head of a response, and for each piece of its body.
const PATIENCE: Duration = Duration::from_secs(60);
const HINT: &str = "check the address and whether this machine reaches it";

/// Fetches with what this machine trusts.
pub(super) fn fetcher() -> Fetch {
    Arc::new(|request| fetch(request).map_err(|error| Hinted::new(error, HINT)))
}

type Head = (u16, BTreeMap<String, String>);
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn fetch(request: &FetchRequest) -> Result<FetchResponse, Failure> {
    let (head, heads) = mpsc::sync_channel(1);
    // A few pieces in flight: a slow disk must not fill the memory.
    let (pieces, body) = mpsc::sync_channel(8);
    let request = request.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.map_err(Failure::from).and_then(|runtime| {
            runtime.block_on(async {
                let response = within(follow(&request)).await??;
                let (told, body) = split(response);
                let _ = head.send(Ok(told));
                pass_on(body, &pieces).await;
                Ok(())
            })
        });
        if let Err(error) = result {
            let _ = head.send(Err(error));
        }
    });
    let (status, headers): Head = heads.recv().map_err(|_| "the connection ended")??;
    Ok(FetchResponse { status, headers, body: Box::new(Pieces { body, current: Bytes::new() }) })
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| "the server does not answer".into())
}

async fn follow(request: &FetchRequest) -> Result<Response<Body>, Failure> {
    let client = Client::default();
    let mut url: Uri = request.url.parse()?;
    let host = url.authority().cloned();
    for _ in 0..=MAX_REDIRECTS {
        let mut next = Request::get(url.clone()).header(header::USER_AGENT, "wharf");
        for (name, value) in &request.headers {
            // Credentials are for the host they were given for.
            if name != "authorization" || url.authority() == host.as_ref() {
                next = next.header(name, HeaderValue::from_str(value)?);
            }
        }
        let response = client.fetch(next.body(wharf_http::empty())?).await.map_err(|e| e.to_string())?;
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        match (response.status().as_u16(), location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => url = target(&url, location)?,
            _ => return Ok(response),
        }
    }
    Err(format!("there are more than {MAX_REDIRECTS} redirects").into())
}

/// Where a redirect leads.
fn target(from: &Uri, location: &str) -> Result<Uri, Failure> {
    let location = location.split('#').next().unwrap_or(location);
    let (scheme, host) =
        (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |host| host.as_str()));
    let absolute = match location {
        full if full.contains("://") => full.to_owned(),
        other if other.starts_with("//") => format!("{scheme}:{other}"),
        other if other.starts_with('/') => format!("{scheme}://{host}{other}"),
        other => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{host}{folder}/{other}")
        }
    };
    let uri: Uri = absolute.parse()?;
    if scheme == "https" && uri.scheme_str() != Some("https") {
        return Err(format!("it redirects to '{uri}', which is not encrypted").into());
    }
    Ok(uri)
}

fn split(response: Response<Body>) -> (Head, Body) {
    let (parts, body) = response.into_parts();
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let headers =
        parts.headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)));
    ((parts.status.as_u16(), headers.collect()), body)
}

async fn pass_on(mut body: Body, pieces: &mpsc::SyncSender<io::Result<Bytes>>) {
    loop {
        let piece = match tokio::time::timeout(PATIENCE, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let failed = piece.is_err();
        // Nobody reads any more: the build is over.
        if pieces.send(piece).is_err() || failed {
            return;
        }
    }
}

struct Pieces {
    body: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.body.recv() {
                Ok(piece) => self.current = piece?,
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        let piece = self.current.split_to(count);
        if let Some(place) = buffer.get_mut(..count) {
            place.copy_from_slice(&piece);
        }
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://a:1/d/e?x".parse().unwrap();
        let to = |location: &str| target(&from, location).ok().map(|uri| uri.to_string());
        assert_eq!(to("/f#g").as_deref(), Some("https://a:1/f"));
        assert_eq!(to("f").as_deref(), Some("https://a:1/d/f"));
        assert_eq!(to("//b/f").as_deref(), Some("https://b/f"));
        assert_eq!(to("https://b/f").as_deref(), Some("https://b/f"));
        assert_eq!(to("http://b/f"), None);
    }
}
