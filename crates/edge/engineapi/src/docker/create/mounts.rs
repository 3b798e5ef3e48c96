//! What is mounted into a container: binds, volumes and memory, in the forms clients write them.

use wharf_engine::{MountPoint, MountSource};

use super::{super::answer::Failure, HostConfig, Mount};

pub(super) fn mounts(
    host: &HostConfig,
    volumes: impl Iterator<Item = String>,
) -> Result<Vec<MountPoint>, Failure> {
    let mut mounts = host.binds.iter().map(|bind| bind_of(bind)).collect::<Result<Vec<_>, _>>()?;
    mounts.extend(host.mounts.iter().map(mount_of).collect::<Result<Vec<_>, _>>()?);
    for (target, options) in &host.tmpfs {
        let options: Vec<String> =
            options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        if let Some(unknown) = options.iter().find(|option| !is_tmpfs_option(option)) {
            return Err(Failure::bad(format!("invalid tmpfs option [\"{unknown}\"]")));
        }
        mounts.push(MountPoint { source: MountSource::Tmpfs, target: target.clone(), options });
    }
    for target in volumes.collect::<Vec<_>>() {
        if !mounts.iter().any(|mount| mount.target == target) {
            mounts.push(MountPoint { source: anonymous(), target, options: Vec::new() });
        }
    }
    for mount in &mounts {
        if !mount.target.starts_with('/') {
            return Err(Failure::bad(format!(
                "invalid mount config: invalid mount path: '{}' mount path must be absolute",
                mount.target
            )));
        }
        if mount.target.trim_end_matches(['/', '.']).is_empty() {
            return Err(Failure::bad(format!(
                "invalid volume specification: '{}': invalid specification: destination can't be '/'",
                mount.target
            )));
        }
    }
    Ok(mounts)
}

fn is_tmpfs_option(option: &str) -> bool {
    match option.split_once('=') {
        Some((name, value)) => {
            matches!(name, "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks") && !value.is_empty()
        }
        None => TMPFS_FLAGS.contains(&option),
    }
}

const TMPFS_FLAGS: [&str; 22] = [
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "mand",
    "nomand",
];

/// A volume nobody has named.
pub(in super::super) fn anonymous() -> MountSource {
    MountSource::Volume(wharf_base::random_hex(32))
}

/// `SOURCE:TARGET[:OPTIONS]`, or a target alone.
fn bind_of(text: &str) -> Result<MountPoint, Failure> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (anonymous(), target, ""),
        [source, target] => (source_of(source), target, ""),
        [source, target, options] => (source_of(source), target, options),
        _ => return Err(Failure::bad(format!("invalid volume specification: '{text}'"))),
    };
    let mut known = Vec::new();
    for option in options.split(',') {
        match option {
            "" | "z" | "Z" | "rw" | "consistent" | "cached" | "delegated" => {}
            "ro" | "nocopy" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                known.push(option.to_owned());
            }
            _ => return Err(Failure::bad(format!("invalid mode: {options}"))),
        }
    }
    if let MountSource::Volume(name) = &source
        && !wharf_engine::volumes::is_name(name)
    {
        return Err(Failure::bad(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    Ok(MountPoint { source, target: target.to_owned(), options: known })
}

fn source_of(text: &str) -> MountSource {
    match text.starts_with('/') {
        true => MountSource::Path { path: text.into(), make: true },
        false => MountSource::Volume(text.to_owned()),
    }
}

fn mount_of(mount: &Mount) -> Result<MountPoint, Failure> {
    let mut options: Vec<String> = mount.read_only.then(|| "ro".to_owned()).into_iter().collect();
    let source = match mount.kind.as_str() {
        "bind" => {
            let bind = mount.bind_options.as_ref();
            options.extend(
                bind.map(|bind| bind.propagation.clone()).filter(|propagation| !propagation.is_empty()),
            );
            let make = bind.is_some_and(|bind| bind.create_mountpoint);
            if bind.is_some_and(|bind| bind.non_recursive) {
                return Err(Failure::not_supported("BindOptions.NonRecursive is not supported"));
            }
            if !mount.source.starts_with('/') {
                return Err(Failure::bad(
                    "invalid mount config for type \"bind\": the source must be an absolute path",
                ));
            }
            let path: std::path::PathBuf = mount.source.clone().into();
            if !make && !path.exists() {
                return Err(Failure::bad(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
            MountSource::Path { path, make }
        }
        "volume" => {
            let wanted = mount.volume_options.as_ref();
            if wanted.is_some_and(|wanted| !wanted.subpath.is_empty()) {
                return Err(Failure::not_supported("a part of a volume (Subpath) cannot be mounted yet"));
            }
            if let Some(driver) = wanted.and_then(|wanted| wanted.driver_config.as_ref()) {
                if driver["Name"].as_str().is_some_and(|name| !matches!(name, "" | "local")) {
                    return Err(Failure::not_supported(
                        "volumes of other drivers than 'local' are not supported",
                    ));
                }
                if driver["Options"].as_object().is_some_and(|options| !options.is_empty()) {
                    return Err(Failure::not_supported("options of a volume's driver are not supported"));
                }
            }
            options.extend(wanted.filter(|wanted| wanted.no_copy).map(|_| "nocopy".to_owned()));
            match mount.source.as_str() {
                "" => anonymous(),
                name => MountSource::Volume(name.to_owned()),
            }
        }
        "tmpfs" => {
            let wanted = mount.tmpfs_options.as_ref();
            options.extend(wanted.filter(|w| w.size_bytes > 0).map(|w| format!("size={}", w.size_bytes)));
            options.extend(wanted.filter(|w| w.mode > 0).map(|w| format!("mode={:o}", w.mode)));
            MountSource::Tmpfs
        }
        other => {
            return Err(Failure::bad(format!(
                "invalid mount config for type \"{other}\": mount type unknown"
            )));
        }
    };
    Ok(MountPoint { source, target: mount.target.clone(), options })
}
