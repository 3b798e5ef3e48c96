//! What a stage has come to: a file system, settings, and how both came to be.

use std::path::{Path, PathBuf};

use wharf_base::Digest;
use wharf_image::{ContainerConfig, History, ImageConfig, Layer, Platform, ResolvedImage, Store, View};

use super::{capture::ImageSource, platform::platform_of};

use crate::{
    cache::{KeyMaker, Record},
    error::{Error, IoContext, Result},
};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage after some of its instructions.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Stands for the file system: equal keys, equal files.
    pub(crate) key: Digest,
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: ContainerConfig,
    pub(crate) history: Vec<History>,
    /// When the newest layer was made.
    pub(crate) created: Option<String>,
    pub(crate) author: Option<String>,
    /// What its programs are for.
    pub(crate) platform: Platform,
    /// The image it stands on.
    pub(crate) image: Option<ImageSource>,
    /// The step that made it.
    pub(crate) last_step: Option<crate::progress::StepId>,
    /// Build arguments declared so far, with what they have as value.
    pub(crate) args: Vec<(String, Option<String>)>,
}

impl State {
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let config = ContainerConfig {
            env: vec![DEFAULT_PATH.into()],
            working_dir: "/".into(),
            ..ContainerConfig::default()
        };
        Self {
            key: KeyMaker::new("scratch-1").key(),
            layers: Vec::new(),
            config,
            history: Vec::new(),
            created: None,
            author: None,
            platform: platform.clone(),
            image: None,
            last_step: None,
            args: Vec::new(),
        }
    }

    /// The start of a stage on an image, found for `wanted`.
    pub(crate) fn of(layers: Vec<Layer>, image: ImageConfig, wanted: &Platform, source: ImageSource) -> Self {
        let platform = platform_of(&image, wanted);
        let mut key = KeyMaker::new("image-1");
        key.number(layers.len() as u64);
        for layer in &layers {
            key.digest(&layer.diff_id);
        }
        let mut state = Self {
            key: key.key(),
            layers,
            config: image.config,
            history: image.history,
            created: image.created,
            author: image.author,
            platform,
            image: Some(source),
            last_step: None,
            args: Vec::new(),
        };
        state.complete();
        state
    }

    /// What every stage has, whatever its base leaves out.
    fn complete(&mut self) {
        if self.variable("PATH").is_none() {
            self.config.env.push(DEFAULT_PATH.into());
        }
        if self.config.working_dir.is_empty() {
            self.config.working_dir = "/".into();
        }
    }

    /// The start of a stage on this one.
    pub(crate) fn child(&self) -> Self {
        let mut child = self.clone();
        child.config.on_build.clear();
        child
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let of =
            |setting: &String| setting.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned());
        self.config.env.iter().rev().find_map(of)
    }

    /// A name's value in an instruction: `ENV` stands before `ARG`.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.variable(name).or_else(|| {
            self.args.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.clone())
        })
    }

    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        let setting = format!("{name}={value}");
        let prefix = format!("{name}=");
        match self.config.env.iter_mut().find(|known| known.starts_with(&prefix)) {
            Some(known) => *known = setting,
            None => self.config.env.push(setting),
        }
    }

    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        self.args.retain(|(known, _)| known != name);
        self.args.push((name.to_owned(), value));
    }

    pub(crate) fn shell(&self) -> Vec<String> {
        self.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()])
    }

    /// Notes an instruction that changed settings only.
    pub(crate) fn note(&mut self, created_by: String) {
        self.history.push(self.entry(created_by, true, self.created.clone()));
    }

    fn entry(&self, created_by: String, empty_layer: bool, created: Option<String>) -> History {
        History {
            created,
            created_by: Some(created_by),
            comment: Some("wharf.dockerfile.v1".into()),
            empty_layer,
            ..History::default()
        }
    }

    /// Takes what a step made.
    pub(crate) fn take(&mut self, record: &Record, created_by: String) {
        let layer = record.layer();
        let created = Some(record.created.clone());
        self.history.push(self.entry(created_by, layer.is_none(), created.clone()));
        if layer.is_some() {
            self.created = self.created.take().max(created);
        }
        self.layers.extend(layer);
        self.key = record.key;
    }

    /// The folders of its layers, the top first; at least one.
    pub(crate) fn folders(&self, images: &Store, empty: &Path) -> Result<Vec<PathBuf>> {
        let mut folders = images.layer_dirs(&self.layers)?;
        folders.reverse();
        if folders.is_empty() {
            std::fs::create_dir_all(empty).at("create folder", empty)?;
            folders.push(empty.to_owned());
        }
        Ok(folders)
    }

    /// Owner and group by name or number, as the image's own files tell. A user alone is the group too.
    pub(crate) fn owner(&self, text: &str, view: Option<&View>) -> Result<(u32, u32)> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let look = |name: &str, file: &str, what: &str| -> Result<u32> {
            if let Ok(number) = name.parse() {
                return Ok(number);
            }
            let numbers = match view {
                Some(view) => numbers(view, file, name)?,
                None => None,
            };
            numbers.map(|(number, _)| number).ok_or_else(|| {
                Error::invalid(format!("the {what} '{name}' is not in the image's /{file}"))
                    .hint("make it in a RUN step before, or use a number")
            })
        };
        let uid = look(user, "etc/passwd", "user")?;
        // Without a group, Docker takes the user's number for it, also for a user given by name.
        let gid = match group {
            Some(group) => look(group, "etc/group", "group")?,
            None => uid,
        };
        Ok((uid, gid))
    }

    /// Who owns what is made as the current `USER`. As BuildKit: the group is the user's own where none is given, and
    /// whom the image does not know is root.
    pub(crate) fn user(&self, view: &View) -> Result<(u32, u32)> {
        let text = self.config.user.as_str();
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let (uid, own) = match user.parse::<u32>() {
            Ok(number) => (number, number),
            Err(_) => {
                let (uid, gid) = numbers(view, "etc/passwd", user)?.unwrap_or_default();
                (uid, gid.unwrap_or_default())
            }
        };
        let gid = match group.map(|group| (group, group.parse::<u32>())) {
            None => own,
            Some((_, Ok(number))) => number,
            Some((name, Err(_))) => numbers(view, "etc/group", name)?.map_or(own, |(gid, _)| gid),
        };
        Ok((uid, gid))
    }
}

/// The number of `name` in a file such as /etc/passwd, and the one after it.
fn numbers(view: &View, file: &str, name: &str) -> Result<Option<(u32, Option<u32>)>> {
    let content = view.read_file(Path::new(file), 4 << 20)?.unwrap_or_default();
    let content = String::from_utf8_lossy(&content);
    let mut lines = content.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let number = |fields: &[&str], at: usize| fields.get(at).and_then(|field| field.parse().ok());
    Ok(lines.find_map(|fields| {
        let own = number(&fields, 2).filter(|_| fields.first() == Some(&name))?;
        Some((own, number(&fields, 3)))
    }))
}

/// Layers and configuration of an image that was found.
pub(crate) fn parts_of(image: ResolvedImage) -> (Vec<Layer>, ImageConfig) {
    (image.layers, image.config)
}
