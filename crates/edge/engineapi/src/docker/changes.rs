//! Images that `commit` and `import` make: what changes in how they run, and what they are called.

use std::sync::Arc;

use wharf_build::{BuildRequest, Builder, Context, DockerfileSource};
use wharf_image::{Descriptor, Reference, Store};

use super::{Docker, answer::Failure, route::Query};

/// Instructions that change how containers of an image run.
const CHANGES: [&str; 12] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The lines of `changes`; others than those are refused.
fn changes(given: &[&str]) -> Result<Vec<String>, Failure> {
    let lines = given.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty());
    let read = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        match CHANGES.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            true => Ok(line.to_owned()),
            false => Err(Failure::bad(format!("{} is not a valid change command", word.to_lowercase()))),
        }
    };
    lines.map(read).collect()
}

/// What is left to do with an image once its layers are there.
pub(super) struct Change {
    lines: Vec<String>,
    builder: Option<Arc<Builder>>,
    name: Option<Reference>,
    /// What an image is called that nobody names, before its digest.
    unnamed: &'static str,
}

impl Docker {
    /// Reads `changes`, `repo` and `tag`.
    pub(super) fn change(&self, query: &Query, unnamed: &'static str) -> Result<Change, Failure> {
        let name = match (query.get("repo"), query.get("tag")) {
            (None, _) => None,
            (Some(repository), None) => Some(repository.parse()?),
            (Some(repository), Some(tag)) => Some(format!("{repository}:{tag}").parse()?),
        };
        let lines = changes(&query.all("changes"))?;
        if !lines.is_empty() && self.builder.is_none() {
            return Err(Failure::not_supported("this platform has no builder"));
        }
        Ok(Change { lines, builder: self.builder.clone(), name, unnamed })
    }
}

impl Change {
    /// Changes the image and names it. It has no name when that fails. Blocks.
    pub(super) fn finish(self, images: &Store, made: Descriptor) -> Result<Descriptor, Failure> {
        let made = match self.builder.filter(|_| !self.lines.is_empty()) {
            None => made,
            Some(builder) => {
                let base: Reference = format!("{}@{}", self.unnamed, made.digest).parse()?;
                images.tag(std::slice::from_ref(&base), &made)?;
                let mut request = BuildRequest::new(Context::Empty);
                let text = format!("FROM {}\n{}\n", base.familiar(), self.lines.join("\n"));
                request.dockerfile = DockerfileSource::Text(text);
                let built = builder.build(request, |_| {});
                images.untag(&base)?;
                built.map_err(|error| Failure::bad(error.what))?.manifest
            }
        };
        let name = match self.name {
            Some(name) => name,
            // Without a name it would go with the next collection.
            None => format!("{}@{}", self.unnamed, made.digest).parse()?,
        };
        images.tag(&[name], &made)?;
        Ok(made)
    }
}
