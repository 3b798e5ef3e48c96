//! A policy: its file, and which of its rules is about an image.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf_image::Reference;

use super::{
    identity::Identity,
    json::Fault,
    key::{Key, MAX_KEY},
    read::read_policy,
    scope::scopes_of,
};

/// The largest file: a scope with its rule has some 200 bytes.
const MAX_POLICY: u64 = 1 << 20;

/// Which images may be used, as `policy.json` says.
#[derive(Debug, Clone)]
pub struct Policy {
    default: Requirements,
    /// By scope, of the transport `docker`.
    docker: BTreeMap<String, Requirements>,
}

/// What has to hold for an image to be used: every entry of the rule that is about it.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// The policy's file.
    pub(super) file: Arc<Path>,
    /// Which images the rule is about, to be read after "images of".
    pub(super) about: String,
    /// Never empty.
    pub(super) all: Vec<Requirement>,
}

#[derive(Debug, Clone)]
pub(super) enum Requirement {
    AcceptAnything,
    Reject,
    /// There is a signature by one of these keys for such an identity.
    Signed {
        keys: Vec<Key>,
        identity: Identity,
    },
}

/// Why a policy cannot be used. Nothing is accepted by a policy that is not understood whole.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct PolicyError {
    file: PathBuf,
    fault: Fault,
}

impl PolicyError {
    /// What the reader can do about it.
    pub fn hint(&self) -> &str {
        &self.fault.hint
    }
}

impl Policy {
    /// Reads a policy and the keys it names.
    ///
    /// # Errors
    /// When a file cannot be read, is too large (the policy: 1 MiB, a key: 64 KiB), or is not understood.
    pub fn load(file: &Path) -> Result<Self, PolicyError> {
        let bytes = read_small(file, MAX_POLICY).map_err(|e| PolicyError {
            file: file.to_owned(),
            fault: Fault::new(format!("cannot be read: {e}"), "give the path of a policy.json that is there"),
        })?;
        Self::parse(file, &bytes, |key| read_small(key, MAX_KEY).map_err(|e| e.to_string()))
    }

    /// Reads a policy from the bytes of `file`, which is named in errors and refusals only. `read_key` gives the
    /// content of the key files the policy names.
    ///
    /// # Errors
    /// When something in it is not understood or not supported, or a key cannot be read.
    pub fn parse(
        file: &Path,
        bytes: &[u8],
        mut read_key: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Self, PolicyError> {
        let rules = read_policy(bytes, &mut read_key)
            .map_err(|fault| PolicyError { file: file.to_owned(), fault })?;
        let file: Arc<Path> = file.into();
        let requirements =
            |about: &str, all| Requirements { file: Arc::clone(&file), about: about.into(), all };
        let about = |scope: &str| match scope {
            "" => "registries it does not name".to_owned(),
            scope => scope.to_owned(),
        };
        let docker = rules.docker.into_iter().map(|(s, all)| (s.clone(), requirements(&about(&s), all)));
        Ok(Self { docker: docker.collect(), default: requirements(&about(""), rules.default) })
    }

    /// The requirements an image has to meet, by the name it is asked for with: those of the most specific scope
    /// that the image belongs to.
    pub fn requirements(&self, reference: &Reference) -> &Requirements {
        let scopes = scopes_of(reference);
        let scoped = scopes.iter().map(String::as_str).chain([""]).find_map(|scope| self.docker.get(scope));
        scoped.unwrap_or(&self.default)
    }
}

/// A file's content, when it is a file of at most so many bytes.
fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}
