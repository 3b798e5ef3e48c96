//! Contexts by name: `--build-context NAME=…` puts files or an image in the place of what the Dockerfile calls NAME.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use wharf_image::{Compression, Platform, Reference, UnpackOptions, pack_directory, unpack_into};

use super::{
    capture::{ImageSource, git_uri},
    executor::{Build, lock},
    image::image_state,
    inputs::read_ignore_of,
    request::NamedContext,
    state::{State, parts_of},
};
use crate::{
    attest::Material,
    cache::{KeyMaker, Record},
    copy::{Changes, Placer, Tree},
    error::{Error, IoContext, Result},
    ignore::Ignore,
    remote::{Remote, archive, without_password},
};

/// A context, ready.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    Files(Tree),
    Image(Box<State>),
}

/// The name under which `contexts` has what a Dockerfile calls `wanted`: the same text, or the same image.
pub(crate) fn named<'a, T>(
    contexts: &'a std::collections::BTreeMap<String, T>,
    wanted: &str,
) -> Option<&'a str> {
    if let Some((name, _)) = contexts.get_key_value(wanted) {
        return Some(name);
    }
    let reference = wanted.parse::<Reference>().ok()?.to_string();
    let same = |name: &&String| name.parse::<Reference>().is_ok_and(|known| known.to_string() == reference);
    contexts.keys().find(same).map(String::as_str)
}

impl Build<'_> {
    /// The context that `wanted` names, if one does.
    pub(crate) fn context_of(&self, wanted: &str, platform: &Platform) -> Result<Option<Prepared>> {
        let Some(name) = named(&self.request.contexts, wanted) else { return Ok(None) };
        // Whoever needs it second waits for who needs it first.
        let mut ready = lock(&self.contexts);
        let key = (name.to_owned(), platform.to_string());
        if let Some(known) = ready.get(&key) {
            return Ok(Some(known.clone()));
        }
        let Some(context) = self.request.contexts.get(name) else { return Ok(None) };
        let prepared = self.prepare(name, context, platform).map_err(|mut error| {
            error.what = format!("--build-context {name}: {}", error.what);
            error
        })?;
        ready.insert(key, prepared.clone());
        Ok(Some(prepared))
    }

    fn prepare(&self, name: &str, context: &NamedContext, platform: &Platform) -> Result<Prepared> {
        let shown = format!("the context '{name}'");
        match context {
            NamedContext::Folder(folder) => {
                self.note_local(name);
                let folder = fs::canonicalize(folder).at("open folder", folder)?;
                let ignore = Arc::new(read_ignore_of(&folder)?);
                Ok(Prepared::Files(Tree::context(&folder, ignore, shown)?))
            }
            NamedContext::Image(image) => {
                let state = image_state(self.builder, image, platform, self.request.pull, self.listener)?;
                self.note_image(state.image.as_ref(), &state.platform);
                Ok(Prepared::Image(Box::new(state)))
            }
            NamedContext::Layout(folder) => {
                let state = self.layout(name, folder, platform)?;
                self.note_image(state.image.as_ref(), &state.platform);
                Ok(Prepared::Image(Box::new(state)))
            }
            NamedContext::Remote(url) => self.remote_context(url, shown).map(Prepared::Files),
        }
    }

    fn remote_context(&self, url: &str, shown: String) -> Result<Tree> {
        match Remote::parse(url)? {
            Some(Remote::Git(url)) => {
                let commit = self.remotes().git().resolve(&url)?;
                self.note_material(Material::of_commit(git_uri(&url), &commit));
                self.remotes().repository(&url, &commit, false)
            }
            Some(Remote::Http(url)) => {
                let download = self.remotes().download(&url)?;
                self.note_material(Material::of_digest(without_password(&url), &download.digest));
                let folder = self.temp.path().join(format!("context-{}", wharf_base::random_hex(4)));
                fs::create_dir(&folder).at("create folder", &folder)?;
                let content = archive(|| download.reopened())
                    .at("read", &url)?
                    .ok_or_else(|| Error::invalid(format!("'{}' is no archive", without_password(&url))))?;
                let options =
                    UnpackOptions { whiteouts: false, owner: Some((0, 0)), ..UnpackOptions::default() };
                unpack_into(content, &folder, &options)?;
                Tree::context(&folder, Arc::default(), shown)
            }
            None => Err(Error::invalid(format!("'{url}' is no address of a repository or an archive"))),
        }
    }

    /// The image in a folder in OCI layout.
    fn layout(&self, name: &str, folder: &Path, platform: &Platform) -> Result<State> {
        let path = self.temp.path().join(format!("layout-{}", wharf_base::random_hex(4)));
        pack_directory(folder, File::create(&path).at("create", &path)?, None)?;
        let found = self.builder.images.load(File::open(&path).at("open", &path)?)?;
        let _ = fs::remove_file(&path);
        let first = found.first().ok_or_else(|| Error::invalid("the layout has no image"))?;
        let (layers, config) = parts_of(self.builder.images.resolve_for(&first.target, platform)?);
        let source = ImageSource { name: name.to_owned(), digest: first.target.digest, is_layout: true };
        Ok(State::of(layers, config, platform, source))
    }

    /// The start of a stage on a context.
    pub(crate) fn context_state(&self, name: &str, platform: &Platform) -> Result<State> {
        match self.context_of(name, platform)? {
            Some(Prepared::Image(state)) => Ok(*state),
            Some(Prepared::Files(tree)) => self.state_of_files(&tree, platform),
            None => Err(Error::host(format!("there is no context '{name}'"))),
        }
    }

    fn state_of_files(&self, tree: &Tree, platform: &Platform) -> Result<State> {
        let mut state = State::scratch(platform);
        let items = tree.find("/", false)?;
        let mut key = self.key("context-1");
        for item in &items {
            key.digest(&tree.digest(item, &Ignore::default(), &self.builder.files)?);
        }
        let key = KeyMaker::key(key);
        let known = self.builder.records.get(&key, &self.builder.images);
        let record = match known {
            Some(record) => record,
            None => {
                let scratch = self.builder.images.scratch()?;
                let changes = Changes::default();
                let placer = Placer::new(&scratch.upper(), None, &changes)?;
                for item in &items {
                    placer.copy(tree, item, Path::new(""), &Ignore::default())?;
                }
                placer.finish()?;
                let epoch = self.request.source_date_epoch;
                let layer = self.builder.images.commit_scratch(scratch, Compression::Gzip, epoch)?;
                let record = Record::new(layer.as_ref(), key, self.now());
                self.builder.records.put(&key, &record)?;
                record
            }
        };
        state.take(&record, format!("COPY {} /", tree.name()));
        Ok(state)
    }
}
