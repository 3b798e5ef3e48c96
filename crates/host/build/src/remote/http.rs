//! Files over HTTP, kept with what the server said of them, so that it is asked only whether they changed.
//!
//! ```text
//! downloads/HASH/     of one address: meta (JSON), content, lock
//! ```

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use wharf_base::{Digest, Hasher, random_hex};

use super::{Fetch, FetchRequest, FetchResponse, without_password};
use crate::{
    error::{Error, IoContext, Result},
    progress::Cancel,
    workspace::{lock_file, private_dir, replace_file},
};

/// The largest file fetched.
const MAX_FILE: u64 = 32 << 30;

/// A file that was fetched. It stays readable, whatever happens to the cache.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) content: File,
    pub(crate) digest: Digest,
    /// The name the server gives it.
    pub(crate) name: Option<String>,
    /// When it was changed, in seconds since 1970.
    pub(crate) modified: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    etag: Option<String>,
    last_modified: Option<String>,
    name: Option<String>,
    digest: Digest,
}

/// The cache of files.
#[derive(Debug)]
pub(crate) struct Downloads {
    dir: PathBuf,
}

impl Download {
    /// The content from its beginning.
    pub(crate) fn reopened(&self) -> std::io::Result<File> {
        let mut file = self.content.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

impl Downloads {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file at `url` as it is now.
    pub(crate) fn get(
        &self,
        fetch: &Fetch,
        url: &str,
        authorization: Option<String>,
        cancel: &Cancel,
    ) -> Result<Download> {
        let hash = Digest::of(url.as_bytes()).hex();
        let folder = self.dir.join(hash.get(..32).unwrap_or(&hash));
        private_dir(&folder)?;
        let _lock = lock_file(&folder.join("lock"), FlockOperation::LockExclusive)?;
        let known = fs::read(folder.join("meta")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let known: Option<Meta> = known.filter(|_| folder.join("content").exists());
        let request = request(url, authorization, known.as_ref());
        let shown = without_password(url);
        let response = fetch(&request).map_err(|error| {
            Error::host(format!("cannot fetch '{shown}': {error}")).hint(error.hint().to_owned())
        })?;
        match (response.status, known) {
            (304, Some(meta)) => open(&folder, meta),
            (200, _) => open(&folder, take(&folder, response, &shown, cancel)?),
            (status, _) => Err(Error::host(format!("cannot fetch '{shown}': the server answered {status}"))
                .hint(advice(status))),
        }
    }

    /// Removes files nobody has asked for for `age`.
    pub(crate) fn prune(&self, age: Duration) -> Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)?.flatten() {
            let used = entry.path().join("lock").metadata().and_then(|meta| meta.modified()).ok();
            if used.and_then(|at| now.duration_since(at).ok()).is_some_and(|unused| unused >= age) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "give a secret HTTP_AUTH_TOKEN_<host> or HTTP_AUTH_HEADER_<host> with --secret",
        404 | 410 => "check the address",
        _ => "try again later, or download the file into the build context",
    }
}

fn request(url: &str, authorization: Option<String>, known: Option<&Meta>) -> FetchRequest {
    let mut request = FetchRequest { url: url.to_owned(), ..FetchRequest::default() };
    let conditions = known.map(|meta| match (&meta.etag, &meta.last_modified) {
        (Some(tag), _) => Some(("if-none-match", tag.clone())),
        (None, Some(time)) => Some(("if-modified-since", time.clone())),
        (None, None) => None,
    });
    let headers = conditions.flatten().into_iter().chain(authorization.map(|value| ("authorization", value)));
    request.headers.extend(headers.map(|(name, value)| (name.to_owned(), value)));
    request
}

fn take(folder: &Path, response: FetchResponse, shown: &str, cancel: &Cancel) -> Result<Meta> {
    let header = |name: &str| response.headers.get(name).cloned();
    let mut meta = Meta {
        etag: header("etag"),
        last_modified: header("last-modified"),
        name: header("content-disposition").and_then(|text| disposition(&text)),
        digest: Digest::of(b""),
    };
    let draft = folder.join(format!(".{}", random_hex(8)));
    let copied = copy(response.body, &draft, shown, cancel);
    match copied {
        Ok(digest) => meta.digest = digest,
        Err(error) => {
            let _ = fs::remove_file(&draft);
            return Err(error.full_in(folder));
        }
    }
    // Between the two the old description must not stand beside the new content.
    let _ = fs::remove_file(folder.join("meta"));
    fs::rename(&draft, folder.join("content")).at("write", folder)?;
    replace_file(&folder.join("meta"), &serde_json::to_vec(&meta).at("write", folder)?)?;
    Ok(meta)
}

fn copy(mut body: Box<dyn Read + Send>, draft: &Path, shown: &str, cancel: &Cancel) -> Result<Digest> {
    let mut file = File::create(draft).at("create", draft)?;
    let (mut hasher, mut total) = (Hasher::new(), 0u64);
    let mut buffer = vec![0; 128 << 10];
    loop {
        cancel.check()?;
        let count = body.read(&mut buffer).map_err(|error| {
            Error::host(format!("'{shown}' broke off after {total} bytes")).caused_by(error)
        })?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
        total += count as u64;
        if total > MAX_FILE {
            return Err(Error::invalid(format!("'{shown}' is larger than {MAX_FILE} bytes")));
        }
        hasher.update(piece);
        file.write_all(piece).at("write", draft)?;
    }
    Ok(hasher.finish())
}

fn open(folder: &Path, meta: Meta) -> Result<Download> {
    let content = folder.join("content");
    // The age of the lock says when the file was last of use.
    let _ = File::open(folder.join("lock")).and_then(|file| file.set_modified(SystemTime::now()));
    Ok(Download {
        content: File::open(&content).at("open", &content)?,
        digest: meta.digest,
        name: meta.name,
        modified: meta.last_modified.as_deref().and_then(http_date),
    })
}

/// The file name in `attachment; filename="x"`, without folders.
fn disposition(text: &str) -> Option<String> {
    let value = text.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    plain_name(value.trim_matches('"'))
}

fn plain_name(text: &str) -> Option<String> {
    let name = text.rsplit(['/', '\\']).next()?;
    let usable = !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    usable.then(|| name.to_owned())
}

/// The last part of an address's path, decoded.
pub(crate) fn file_name(url: &str) -> Option<String> {
    let path = url.split_once("://")?.1.split(['?', '#']).next()?;
    let name = path.split_once('/')?.1.rsplit('/').next()?;
    plain_name(&String::from_utf8(percent_decoded(name)).ok()?)
}

/// The bytes that `%41` and the like stand for; what is no such mark stays.
pub(crate) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded = digits.filter(|_| *first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    bytes
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| name == month)? as i64 + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = clock.as_slice() else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || *hours > 24 || *minutes > 60 {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar, years counted from March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_say() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sun, 29 Feb 2004 12:00:00 GMT"), Some(1_078_056_000));
        assert_eq!(http_date("yesterday"), None);
        assert_eq!(disposition("attachment; filename=\"a b.tar\""), Some("a b.tar".into()));
        assert_eq!(disposition("attachment; filename=../../etc/passwd"), Some("passwd".into()));
        assert_eq!(disposition("inline"), None);
        for (url, name) in [
            ("http://a/b/c.tar.gz?x=/y#z", Some("c.tar.gz")),
            ("https://a/b%20c", Some("b c")),
            ("https://a/b/..%2f..%2fetc", Some("etc")),
            ("http://a/", None),
            ("http://a", None),
            ("http://a/..", None),
        ] {
            assert_eq!(file_name(url).as_deref(), name, "{url}");
        }
    }
}
