//! What a build is given: its context, its Dockerfile, what the context leaves out.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use wharf_image::{UnpackOptions, unpack_into};

use super::{
    capture::git_uri,
    remote_step::Remotes,
    request::{BuildRequest, Builder, Context, DockerfileSource},
};
use crate::{
    attest::Material,
    error::{Error, IoContext, Place, Result},
    ignore::Ignore,
    remote::{Remote, archive, decoded, without_password},
    workspace::Temp,
};

const MAX_DOCKERFILE: u64 = 1 << 20;

/// The build context, ready.
pub(super) struct Ready {
    pub(super) folder: PathBuf,
    /// Where it came from, when that is not this machine.
    pub(super) origin: Option<Material>,
}

pub(super) fn prepare_context(builder: &Builder, request: &mut BuildRequest, temp: &Temp) -> Result<Ready> {
    let mut origin = None;
    let folder = folder_of_context(builder, request, temp, &mut origin)?;
    Ok(Ready { folder, origin })
}

/// The folder the context lies in; a stream is unpacked first.
fn folder_of_context(
    builder: &Builder,
    request: &mut BuildRequest,
    temp: &Temp,
    origin: &mut Option<Material>,
) -> Result<PathBuf> {
    let unpacked = temp.path().join("context");
    match std::mem::replace(&mut request.context, Context::Empty) {
        Context::Folder(folder) => {
            let hint = "name the folder that holds the files to copy, such as '.'";
            let folder = fs::canonicalize(&folder).map_err(|error| {
                let what = format!("cannot open the build context '{}'", folder.display());
                Error::invalid(what).caused_by(error).hint(hint)
            })?;
            if folder.is_dir() {
                return Ok(folder);
            }
            let what = format!("the build context '{}' is not a folder", folder.display());
            Err(Error::invalid(what).hint(hint))
        }
        Context::Tar(stream) => {
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            let stream = stream.into_inner().unwrap_or_else(PoisonError::into_inner);
            let decoder = decoded(stream).at("read", "the stream of the build context")?;
            let options = UnpackOptions { whiteouts: false, owner: Some((0, 0)), ..UnpackOptions::default() };
            unpack_into(decoder, &unpacked, &options)?;
            Ok(unpacked)
        }
        Context::Remote(url) => remote_context(builder, request, temp, (&url, unpacked), origin),
        Context::Empty => {
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            Ok(unpacked)
        }
    }
}

/// A repository, an archive, or a Dockerfile without a context, by its address.
fn remote_context(
    builder: &Builder,
    request: &mut BuildRequest,
    temp: &Temp,
    (url, unpacked): (&str, PathBuf),
    origin: &mut Option<Material>,
) -> Result<PathBuf> {
    let remotes = Remotes { builder, request, temp };
    match Remote::parse(url)? {
        Some(Remote::Git(url)) => {
            let keep_git =
                request.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| value == "1");
            let commit = remotes.git().resolve(&url)?;
            *origin = Some(Material::of_commit(git_uri(&url), &commit));
            remotes.files_of(&url, &commit, keep_git)
        }
        Some(Remote::Http(url)) => {
            let mut download = remotes.download(&url)?;
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            let shown = without_password(&url);
            *origin = Some(Material::of_digest(shown.clone(), &download.digest));
            if let Some(content) = archive(|| download.reopened()).at("read", &shown)? {
                let options =
                    UnpackOptions { whiteouts: false, owner: Some((0, 0)), ..UnpackOptions::default() };
                unpack_into(content, &unpacked, &options)?;
                return Ok(unpacked);
            }
            let mut text = String::new();
            download.content = download.reopened().at("read", &shown)?;
            download.content.take(MAX_DOCKERFILE).read_to_string(&mut text).map_err(|error| {
                Error::invalid(format!("'{shown}' is neither an archive nor a Dockerfile")).caused_by(error)
            })?;
            request.dockerfile = DockerfileSource::Text(text);
            Ok(unpacked)
        }
        None => {
            Err(Error::invalid(format!("'{url}' is no address of a repository, an archive or a Dockerfile")))
        }
    }
}

/// The Dockerfile's name and text.
pub(super) fn read_dockerfile(source: &DockerfileSource, context: &Path) -> Result<(String, String)> {
    let (name, path) = match source {
        DockerfileSource::Text(text) => return Ok(("Dockerfile".into(), text.clone())),
        DockerfileSource::File(path) => (path.display().to_string(), path.clone()),
        DockerfileSource::InContext(name) => {
            let view = wharf_image::View::plain(context)?;
            let mut inside = view.find(Path::new(name), true)?;
            if inside.node.is_none() && name == "Dockerfile" {
                let lower = view.find(Path::new("dockerfile"), true)?;
                inside = if lower.node.is_some() { lower } else { inside };
            }
            (name.clone(), context.join(inside.path))
        }
    };
    let size = fs::metadata(&path).map_err(|error| {
        let hint = "name the Dockerfile with -f, or the folder it is in as build context";
        Error::invalid(format!("cannot read the Dockerfile '{}'", path.display())).caused_by(error).hint(hint)
    })?;
    if size.len() > MAX_DOCKERFILE || !size.is_file() {
        let what = format!("the Dockerfile '{name}' is no file of at most {MAX_DOCKERFILE} bytes");
        return Err(Error::invalid(what).hint("name the Dockerfile with -f"));
    }
    let bytes = fs::read(&path).at("read", &path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::invalid("this is not UTF-8 text")
            .hint("save the Dockerfile in UTF-8")
            .at(Place { line, end: line })
            .of(&name)
    })?;
    Ok((name, text))
}

/// `.dockerignore` of a folder.
pub(super) fn read_ignore_of(folder: &Path) -> Result<Ignore> {
    read_ignore(&DockerfileSource::Text(String::new()), folder)
}

/// `NAME.dockerignore` beside the Dockerfile, or `.dockerignore` of the context.
pub(super) fn read_ignore(source: &DockerfileSource, context: &Path) -> Result<Ignore> {
    let own = match source {
        DockerfileSource::Text(_) => None,
        DockerfileSource::File(path) => Some(path.clone()),
        DockerfileSource::InContext(name) => Some(context.join(name)),
    };
    let own = own.map(|path| {
        let mut name = path.into_os_string();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([context.join(".dockerignore")]) {
        let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20);
        if is_file {
            let text = fs::read(&path).at("read", &path)?;
            let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ignore::parse(&String::from_utf8_lossy(&text)).map_err(|error| error.of(&shown));
        }
    }
    Ok(Ignore::default())
}
