//! Who may use the registry: users of an htpasswd file, as `htpasswd -B` writes it.
//!
//! Only bcrypt is taken: the other forms of the file can be reversed. A file that changes counts at once.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Response, header};
use tokio::sync::Semaphore;
use wharf_base::{Digest, random_hex};
use wharf_http::Body;

use super::error::{Code, Failure};

const MAX_FILE: u64 = 1 << 20;
/// Passwords are checked by so many threads: each takes tens of milliseconds, also of whoever guesses.
const CHECKS: usize = 2;
/// A password that was right is not checked again for so long.
const REMEMBERED: Duration = Duration::from_secs(300);
const MAX_REMEMBERED: usize = 10_000;
/// The hash of a password nobody has: an unknown user takes as long as a wrong password.
const NOBODY: &str = "$2y$10$T0rWmB4eQx8LcV2nPyKd6u2Ri2pyvSt2BKJnhqZyZMPykRWfBCRKO";

/// Users and the hashes of their passwords.
type Users = HashMap<String, String>;

/// Lets users of a file in.
pub struct Access {
    path: PathBuf,
    users: Mutex<(Option<SystemTime>, Arc<Users>)>,
    remembered: Mutex<HashMap<Digest, Instant>>,
    /// What is remembered cannot be guessed from outside.
    salt: String,
    checks: Semaphore,
}

impl Access {
    /// Lets the users of `path` in.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no user with a bcrypt hash.
    pub fn open(path: &Path) -> Result<Self, String> {
        let users = Arc::new(read(path)?);
        Ok(Self {
            path: path.to_owned(),
            users: Mutex::new((changed(path), users)),
            remembered: Mutex::default(),
            salt: random_hex(16),
            checks: Semaphore::new(CHECKS),
        })
    }

    /// Whether a request comes from a user; otherwise what it is answered.
    pub(super) async fn admit(self: &Arc<Self>, headers: &HeaderMap) -> Result<(), Response<Body>> {
        let Some((user, password)) = credentials(headers) else {
            return Err(refusal("this registry wants a user and a password"));
        };
        let access = Arc::clone(self);
        let Ok(users) = tokio::task::spawn_blocking(move || access.users()).await else {
            return Err(refusal("the registry ends"));
        };
        let known = users.get(&user);
        let hash = known.cloned().unwrap_or_else(|| NOBODY.to_owned());
        let key = Digest::of(format!("{}\n{hash}\n{password}", self.salt).as_bytes());
        if known.is_some() && self.remembers(&key) {
            return Ok(());
        }
        let Ok(_permit) = self.checks.acquire().await else { return Err(refusal("the registry ends")) };
        let right =
            tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        if known.is_none() || !right.unwrap_or(false) {
            return Err(refusal("the user or the password is wrong"));
        }
        self.remember(key);
        Ok(())
    }

    /// The users of the file as it is now; those of before when it cannot be read.
    fn users(&self) -> Arc<Users> {
        let mut known = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let now = changed(&self.path);
        if now.is_some() && known.0 != now {
            match read(&self.path) {
                Ok(users) => *known = (now, Arc::new(users)),
                Err(error) => tracing::warn!(%error, "the users of the registry stay as they were"),
            }
        }
        Arc::clone(&known.1)
    }

    fn remembers(&self, key: &Digest) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(key).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, key: Digest) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, since| since.elapsed() < REMEMBERED);
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(key, Instant::now());
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn read(path: &Path) -> Result<Users, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn parse(text: &str) -> Result<Users, String> {
    let mut users = Users::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}; 'htpasswd -B' writes what is wanted", index + 1);
        let (user, hash) = line.split_once(':').ok_or_else(|| wrong("no 'USER:HASH'"))?;
        let bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|start| hash.starts_with(start));
        if !bcrypt || hash.parse::<bcrypt::HashParts>().is_err() {
            return Err(wrong(&format!("the hash of {user} is not of bcrypt")));
        }
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok(users)
}

/// The user and the password of `Basic` credentials (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

fn refusal(why: &str) -> Response<Body> {
    let challenge = r#"Basic realm="wharf", charset="UTF-8""#;
    Failure::new(Code::Unauthorized, why).with(header::WWW_AUTHENTICATE, challenge).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_htpasswd_are_read() {
        let users =
            parse(&format!("# people\n\na:{NOBODY}\n b:{}\r\n", NOBODY.replace("$2y", "$2b"))).unwrap();
        assert_eq!((users.len(), users["a"].as_str()), (2, NOBODY));
        for (text, word) in [
            ("a", "line 1: no 'USER:HASH'"),
            ("#\na:{SHA}x", "line 2: the hash of a is not of bcrypt"),
            ("a:$apr1$x$y", "not of bcrypt"),
            ("a:$2y$10$short", "not of bcrypt"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
