//! `RUN --mount`: what each needs on this machine before the step, and what it adds to the step's key.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use wharf_base::Digest;
use wharf_runtime::{mount, oci};

use super::{
    mask::Mask,
    request::Secret,
    ssh::AgentSocket,
    stage::{Source, StageRun},
};
use crate::{
    attest::Named,
    cache::KeyMaker,
    copy::{Changes, Item, Placer},
    dockerfile::{Mount, MountKind, Sharing, parse_mount},
    error::{Error, IoContext, Result},
    ignore::Ignore,
    workspace::{Temp, lock_file, private_dir},
};

/// A mount with what it takes files from.
pub(crate) struct Wanted {
    mount: Mount,
    target: String,
    source: Option<(Source, Vec<Item>)>,
}

/// Mounts ready for the container.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) mounts: Vec<oci::Mount>,
    pub(crate) env: Vec<String>,
    /// Locks of cache folders, held while the step runs.
    _locks: Vec<File>,
    /// Sockets of ssh agents, open while the step runs.
    _agents: Vec<AgentSocket>,
    /// What the step must not tell.
    pub(crate) mask: Mask,
}

impl StageRun<'_> {
    /// Reads the mounts of a step and adds what they bring to its key.
    pub(crate) fn wanted_mounts(&self, texts: &[String], key: &mut KeyMaker) -> Result<Vec<Wanted>> {
        let mut all = Vec::new();
        for text in texts {
            let wanted = self.wanted(parse_mount(text, Some(&|value| self.expand(value)))?)?;
            self.note_mount(&wanted.mount);
            key.text(&format!("{:?}", wanted.mount)).text(&wanted.target);
            if let Some((source, items)) = &wanted.source {
                self.add_source(source, items, key)?;
            }
            all.push(wanted);
        }
        Ok(all)
    }

    /// Secrets and agents are told of by their names.
    fn note_mount(&self, mount: &Mount) {
        let named = |default: &str| Named {
            id: mount.id.clone().unwrap_or_else(|| default.to_owned()),
            optional: !mount.required,
        };
        self.build.capture(|captured| match mount.kind {
            MountKind::Secret => captured.secrets.insert(named("")),
            MountKind::Ssh => captured.ssh.insert(named("default")),
            _ => false,
        });
    }

    /// What files bring to a key.
    fn add_source(&self, source: &Source, items: &[Item], key: &mut KeyMaker) -> Result<()> {
        if let Some(known) = source.key {
            key.digest(&known);
            return Ok(());
        }
        for item in items {
            let digest: Digest = source.tree.digest(item, &Ignore::default(), &self.build.builder.files)?;
            key.digest(&digest);
        }
        Ok(())
    }

    fn wanted(&self, mut mount: Mount) -> Result<Wanted> {
        let mut source = None;
        if mount.kind == MountKind::Bind || (mount.kind == MountKind::Cache && mount.from.is_some()) {
            let found = self.source(mount.from.as_deref())?;
            let path = if mount.source.is_empty() { "/" } else { &mount.source };
            let items = found.tree.find(path, false)?;
            source = Some((found, items));
        }
        if mount.kind == MountKind::Secret {
            // `source` is an old word for the id.
            let from_source = Some(mount.source.clone()).filter(|source| !source.is_empty());
            let from_target = || mount.target.as_deref().and_then(|target| target.rsplit('/').next());
            mount.id = mount.id.take().or(from_source).or_else(|| from_target().map(str::to_owned));
        }
        let target = match (&mount.target, mount.kind) {
            (Some(target), _) => self.absolute(target),
            (None, MountKind::Ssh) => "/run/buildkit/ssh_agent.0".to_owned(),
            (None, MountKind::Secret) => format!("/run/secrets/{}", mount.id.as_deref().unwrap_or_default()),
            (None, _) => return Err(Error::invalid("RUN --mount: target is missing")),
        };
        if target == "/" {
            return Err(Error::invalid("RUN --mount: the target cannot be the root"));
        }
        Ok(Wanted { mount, target, source })
    }

    /// Makes everything that is mounted.
    pub(crate) fn ready_mounts(&self, wanted: &[Wanted], temp: &Temp) -> Result<Ready> {
        let mut ready = Ready::default();
        for (number, wanted) in wanted.iter().enumerate() {
            let place = temp.path().join(format!("mount-{number}"));
            match wanted.mount.kind {
                MountKind::Bind => self.bind(wanted, &place, &mut ready)?,
                MountKind::Cache => self.cache(wanted, &place, &mut ready)?,
                MountKind::Tmpfs => {
                    let size = wanted.mount.size.map(|size| format!("size={size}"));
                    let options: Vec<&str> =
                        ["nosuid", "nodev", "mode=1777"].into_iter().chain(size.as_deref()).collect();
                    ready.mounts.push(mount(&wanted.target, "tmpfs", "tmpfs", &options)?);
                }
                MountKind::Secret => self.secret(wanted, &place, &mut ready)?,
                MountKind::Ssh => self.ssh(wanted, &place, &mut ready)?,
            }
        }
        Ok(ready)
    }

    /// The files are copied, so that what `.dockerignore` leaves out is not seen and what is written goes with the step.
    fn bind(&self, wanted: &Wanted, place: &Path, ready: &mut Ready) -> Result<()> {
        let Some((source, items)) = &wanted.source else { return Ok(()) };
        let [item] = items.as_slice() else {
            return Err(Error::invalid("RUN --mount: the source means several files").hint("name one"));
        };
        private_dir(place)?;
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).at("set the mode of", place)?;
        let changes = Changes::default();
        let placer = Placer::new(place, None, &changes)?;
        let name = Path::new("content");
        placer.mirror(&source.tree, item, name)?;
        placer.finish()?;
        ready.mounts.push(bind(&wanted.target, &place.join(name), wanted.mount.readonly)?);
        Ok(())
    }

    fn cache(&self, wanted: &Wanted, place: &Path, ready: &mut Ready) -> Result<()> {
        let mount = &wanted.mount;
        let mut id = KeyMaker::new("cache-mount-1");
        id.text(mount.id.as_deref().unwrap_or(&wanted.target));
        if let Some((source, items)) = &wanted.source {
            self.add_source(source, items, &mut id)?;
            id.text(&mount.source);
        }
        let id = id.key().hex();
        let home = self.build.builder.workspace.mounts().join(id.get(..32).unwrap_or(&id));
        private_dir(&home)?;
        let how = match mount.sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Locked => FlockOperation::LockExclusive,
            Sharing::Private => FlockOperation::NonBlockingLockExclusive,
        };
        let folder = match lock_file(&home.join("lock"), how) {
            Ok(lock) => {
                ready._locks.push(lock);
                home.join("content")
            }
            // Somebody else has it: this step gets one that goes with it.
            Err(_) if mount.sharing == Sharing::Private => place.to_owned(),
            Err(error) => return Err(error),
        };
        if !folder.exists() {
            fs::create_dir_all(&folder).at("create folder", &folder)?;
            if let Some((source, items)) = &wanted.source {
                fill(source, items, &folder)?;
            }
            let mode = fs::Permissions::from_mode(mount.mode.unwrap_or(0o755));
            fs::set_permissions(&folder, mode).at("set the mode of", &folder)?;
            chown(&folder, Some(mount.uid), Some(mount.gid)).at("set the owner of", &folder)?;
        }
        ready.mounts.push(bind(&wanted.target, &folder, mount.readonly)?);
        Ok(())
    }

    fn ssh(&self, wanted: &Wanted, place: &Path, ready: &mut Ready) -> Result<()> {
        let mount = &wanted.mount;
        let id = mount.id.as_deref().unwrap_or("default");
        let Some(agent) = self.build.request.ssh.get(id) else {
            if !mount.required {
                return Ok(());
            }
            return Err(Error::invalid(format!("the ssh agent '{id}' is required and was not given"))
                .hint(format!("add --ssh {id}")));
        };
        let socket = AgentSocket::open(place, agent, mount.mode.unwrap_or(0o600), (mount.uid, mount.gid))?;
        ready.mounts.push(bind(&wanted.target, &socket.path(), false)?);
        // Of several agents, ssh asks the first.
        if !ready.env.iter().any(|setting| setting.starts_with("SSH_AUTH_SOCK=")) {
            ready.env.push(format!("SSH_AUTH_SOCK={}", wanted.target));
        }
        ready._agents.push(socket);
        Ok(())
    }

    fn secret(&self, wanted: &Wanted, place: &Path, ready: &mut Ready) -> Result<()> {
        let mount = &wanted.mount;
        let id = mount.id.as_deref().unwrap_or_default();
        let content = match self.build.request.secrets.get(id) {
            Some(Secret::Value(bytes)) => bytes.clone(),
            Some(Secret::File(path)) => fs::read(path).at(&format!("read the secret '{id}' from"), path)?,
            None if mount.required => {
                return Err(Error::invalid(format!("the secret '{id}' is required and was not given"))
                    .hint(format!("add --secret id={id},src=FILE")));
            }
            None => return Ok(()),
        };
        ready.mask.hide(&content);
        if let Some(name) = &mount.env {
            let value =
                String::from_utf8(content.clone()).ok().filter(|value| !value.contains('\0')).ok_or_else(
                    || Error::invalid(format!("the secret '{id}' cannot be a variable: it is no text")),
                )?;
            ready.env.push(format!("{name}={value}"));
            if mount.target.is_none() {
                return Ok(());
            }
        }
        fs::write(place, content).at("write", place)?;
        let mode = fs::Permissions::from_mode(mount.mode.unwrap_or(0o400));
        fs::set_permissions(place, mode).at("set the mode of", place)?;
        chown(place, Some(mount.uid), Some(mount.gid)).at("set the owner of", place)?;
        ready.mounts.push(bind(&wanted.target, place, true)?);
        Ok(())
    }
}

/// What a new cache begins with.
fn fill(source: &Source, items: &[Item], folder: &Path) -> Result<()> {
    let changes = Changes::default();
    let placer = Placer::new(folder, None, &changes)?;
    for item in items {
        let place =
            if item.is_dir() { Path::new("") } else { Path::new(item.name.file_name().unwrap_or_default()) };
        placer.copy(&source.tree, item, place, &Ignore::default())?;
    }
    placer.finish()
}

/// A bind mount of a file or folder of this machine.
pub(crate) fn bind(target: &str, source: &Path, readonly: bool) -> Result<oci::Mount> {
    let source: PathBuf = source.to_owned();
    let options = ["rbind", if readonly { "rro" } else { "rw" }];
    Ok(mount(target, "bind", &source.to_string_lossy(), &options)?)
}
