//! Blobs out: whole, in part, and their removal.

use std::{
    fs::File,
    io::{Read, Seek as _, SeekFrom},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response, StatusCode, header, request::Parts};
use wharf_base::Digest;
use wharf_http::Body;

use super::{
    Answer, Registry, Repository, bare,
    error::{Code, Failure},
};

const CHUNK: u64 = 256 << 10;
/// Chunks read ahead of the connection.
const AHEAD: usize = 4;

impl Registry {
    pub(super) async fn head_blob(&self, repository: Repository, digest: Digest) -> Answer {
        let here = self
            .with_store(move |images| {
                // Whoever asks is about to rely on it: it must outlive the next collection.
                let there = images.blobs().touch(&digest);
                let size = images.blobs().size(&digest).filter(|_| there);
                size.ok_or_else(|| wharf_image::Error::NoBlob(digest).into())
            })
            .await;
        let size = match (here, &self.through) {
            // Who pushes must not take for here what is elsewhere; only who uses this as a mirror is told.
            (Err(missing), Some(through)) if missing.code == Code::BlobUnknown && repository.mirrored => {
                through.blob_size(&repository.any(), &digest).await?
            }
            (here, _) => here?,
        };
        Ok(blob_response(&digest, size))
    }

    async fn opened(&self, digest: Digest) -> Result<(File, u64), Failure> {
        self.with_store(move |images| {
            let file = images.blobs().open_blob(&digest)?;
            let size = images.blobs().size(&digest).ok_or(wharf_image::Error::NoBlob(digest))?;
            Ok((file, size))
        })
        .await
    }

    pub(super) async fn get_blob(&self, repository: Repository, digest: Digest, head: &Parts) -> Answer {
        let (file, size) = match (self.opened(digest).await, &self.through) {
            (Err(missing), Some(through)) if missing.code == Code::BlobUnknown => {
                match through.blob(&self.images, &repository.any(), digest).await? {
                    // All of it is passed on as it comes; a part has to wait for the whole.
                    Some(arriving) if !head.headers.contains_key(header::RANGE) => {
                        let mut response = blob_response(&digest, arriving.size);
                        *response.body_mut() = read_all(arriving.content, arriving.size);
                        return Ok(response);
                    }
                    Some(arriving) => {
                        let ended = arriving.whole.await;
                        ended.map_err(|e| Failure::new(Code::Internal, e.to_string()))??;
                    }
                    None => {}
                }
                self.opened(digest).await?
            }
            (opened, _) => opened?,
        };
        let range = range(&head.headers, size).map_err(|()| {
            Failure::new(Code::RangeInvalid, format!("the range is not within the {size} bytes of the blob"))
                .with(header::CONTENT_RANGE, &format!("bytes */{size}"))
        })?;
        let (start, end) = range.unwrap_or((0, size));
        let mut response = blob_response(&digest, end - start);
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {start}-{}/{size}", end.saturating_sub(1));
            response.headers_mut().extend(value.parse().ok().map(|v| (header::CONTENT_RANGE, v)));
        }
        *response.body_mut() = read_file(file, start, end - start);
        Ok(response)
    }

    pub(super) async fn delete_blob(&self, digest: Digest) -> Answer {
        let removed = self
            .with_store(move |images| match images.blobs().size(&digest) {
                Some(_) => Ok(images.remove_blob(&digest)?),
                None => Err(wharf_image::Error::NoBlob(digest).into()),
            })
            .await?;
        if !removed {
            let why =
                format!("blob {digest} belongs to an image of this registry; delete its manifest first");
            return Err(Failure::new(Code::Denied, why));
        }
        Ok(bare(StatusCode::ACCEPTED, &[("content-length", "0")]))
    }
}

fn blob_response(digest: &Digest, length: u64) -> Response<Body> {
    bare(
        StatusCode::OK,
        &[
            ("content-type", "application/octet-stream"),
            ("content-length", &length.to_string()),
            ("docker-content-digest", &digest.to_string()),
            ("accept-ranges", "bytes"),
            ("cache-control", "max-age=31536000, immutable"),
            ("x-content-type-options", "nosniff"),
        ],
    )
}

/// The part of `size` bytes that is asked for, start and end, or `None` for all. Several ranges, and units
/// other than bytes, are answered with the whole, as HTTP allows.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Ok(None) };
    let Some(spec) = text.strip_prefix("bytes=") else { return Ok(None) };
    let Some((from, to)) = spec.split_once('-') else { return Ok(None) };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (start, end) = match (number(from), number(to)) {
        (Some(start), Some(last)) if start > last => return Ok(None),
        (Some(start), Some(last)) => (start, last.saturating_add(1).min(size)),
        (Some(start), None) if to.trim().is_empty() => (start, size),
        (None, Some(suffix)) if from.trim().is_empty() => (size.saturating_sub(suffix), size),
        _ => return Ok(None),
    };
    if start < end && start < size { Ok(Some((start, end))) } else { Err(()) }
}

/// A body of `length` bytes of `file` from `start`, read by a thread of its own.
pub(crate) fn read_file(mut file: File, start: u64, length: u64) -> Body {
    match file.seek(SeekFrom::Start(start)) {
        Ok(_) => read_all(file, length),
        Err(error) => wharf_http::stream(stream::iter([Err(error)])),
    }
}

/// A body of `length` bytes, read by a thread of its own.
fn read_all(mut file: impl Read + Send + 'static, length: u64) -> Body {
    let (chunks, received) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut left = length;
        let mut failed = None;
        while failed.is_none() && left > 0 {
            let mut chunk = Vec::with_capacity(left.min(CHUNK) as usize);
            match file.by_ref().take(left.min(CHUNK)).read_to_end(&mut chunk) {
                Ok(0) => failed = Some(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    left -= n as u64;
                    // The receiver went away.
                    if chunks.blocking_send(Ok(chunk.into())).is_err() {
                        return;
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        if let Some(error) = failed {
            chunks.blocking_send(Err(error)).ok();
        }
    });
    wharf_http::stream(stream::unfold(received, |mut received| async {
        received.recv().await.map(|chunk| (chunk, received))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_http_has_them() {
        for (text, expect) in [
            ("bytes=0-9", Ok(Some((0, 10)))),
            ("bytes=5-", Ok(Some((5, 100)))),
            ("bytes=-10", Ok(Some((90, 100)))),
            ("bytes=-1000", Ok(Some((0, 100)))),
            ("bytes=90-1000", Ok(Some((90, 100)))),
            ("bytes=100-", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=9-5", Ok(None)),
            ("bytes=0-1,4-5", Ok(None)),
            ("lines=0-1", Ok(None)),
            ("bytes=18446744073709551615-18446744073709551615", Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            assert_eq!(range(&headers, 100), expect, "{text}");
        }
        assert_eq!(range(&HeaderMap::new(), 0), Ok(None));
    }
}
