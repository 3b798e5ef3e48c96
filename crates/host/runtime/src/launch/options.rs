//! Mount options by what they act on.

use oci_spec::runtime::Mount;

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Change {
    fn add(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What the options of one mount come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) bind: bool,
    /// With what is mounted below the source.
    pub(super) recursive: bool,
    /// For the mount itself.
    pub(super) top: Change,
    /// For the mount and everything below it.
    pub(super) deep: Change,
    pub(super) propagation: Option<u64>,
    pub(super) deep_propagation: bool,
    /// Owners of files are shown as the container's users, on everything below it too when the second is set.
    pub(super) map_users: bool,
    pub(super) map_deep: bool,
    /// A new tmpfs begins with what was there.
    pub(super) copy_up: bool,
    /// For the file system itself: `key` or `key=value`.
    pub(super) data: Vec<String>,
}

/// Reads the options of a mount. As the specification has it `ro` is only for the mount itself, and `rro` for all below it too.
pub(super) fn parse(mount: &Mount) -> Options {
    let mut options = Options { bind: mount.typ().as_deref() == Some("bind"), ..Options::default() };
    for option in mount.options().iter().flatten() {
        options.add(option);
    }
    let (uids, gids) = (mount.uid_mappings(), mount.gid_mappings());
    options.map_users |= uids.as_ref().or(gids.as_ref()).is_some_and(|all| !all.is_empty());
    if !options.recursive {
        options.deep.add(options.top.set, options.top.clear);
        options.top = Change::default();
    }
    options
}

impl Options {
    fn add(&mut self, option: &str) {
        if let Some((set, clear)) = attribute(option) {
            return self.top.add(set, clear);
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            return self.deep.add(set, clear);
        }
        let (kind, deep) = match option.strip_prefix('r').map(propagation) {
            Some(Some(kind)) => (Some(kind), true),
            _ => (propagation(option), false),
        };
        if kind.is_some() {
            (self.propagation, self.deep_propagation) = (kind, deep);
            return;
        }
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "idmap" => self.map_users = true,
            "ridmap" => (self.map_users, self.map_deep) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            // What is anyway, or tells only how loud the kernel is.
            "defaults" | "async" | "silent" | "loud" => {}
            other => self.data.push(other.to_owned()),
        }
    }
}

/// Attributes an option sets and clears. With an `r` before it, on everything below too.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, libc::MOUNT_ATTR__ATIME),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    })
}

/// Every option a specification may name, for those who ask.
pub(crate) fn known() -> Vec<String> {
    let attributes = [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nodiratime",
        "diratime",
        "noatime",
        "strictatime",
        "relatime",
        "atime",
        "norelatime",
        "nostrictatime",
        "nosymfollow",
        "symfollow",
        "private",
        "slave",
        "shared",
        "unbindable",
        "bind",
        "idmap",
    ];
    let recursive = attributes.iter().map(|name| format!("r{name}"));
    let others = [
        "async",
        "defaults",
        "dirsync",
        "lazytime",
        "loud",
        "mand",
        "nolazytime",
        "nomand",
        "silent",
        "sync",
        "tmpcopyup",
    ];
    attributes
        .iter()
        .map(|name| (*name).to_owned())
        .chain(recursive)
        .chain(others.map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_RDONLY as RDONLY};

    fn read(options: &[&str]) -> Options {
        parse(&crate::defaults::mount("/x", "none", "/y", options).unwrap())
    }

    #[test]
    fn recursion_is_as_the_specification_says() {
        let both = read(&["rbind", "ro", "rnosuid"]);
        assert_eq!(both.top, Change { set: RDONLY, clear: 0 });
        assert_eq!(both.deep, Change { set: libc::MOUNT_ATTR_NOSUID, clear: 0 });
        // What is mounted read-only below the source of a volume does not become writable.
        let writable = read(&["rbind", "rw"]);
        assert_eq!((writable.top.clear, writable.deep), (RDONLY, Change::default()));
        assert_eq!(read(&["bind", "rro"]).deep.set, RDONLY);
    }

    #[test]
    fn later_options_win() {
        assert_eq!(read(&["ro", "rw"]).deep, Change { set: 0, clear: RDONLY });
        assert_eq!(read(&["noatime"]).deep, Change { set: NOATIME, clear: ATIME });
        let mount = read(&["rbind", "private", "rslave", "noatime"]);
        assert_eq!((mount.propagation, mount.deep_propagation), (Some(libc::MS_SLAVE), true));
        assert_eq!((mount.deep, mount.top), (Change::default(), Change { set: NOATIME, clear: ATIME }));
        assert_eq!(read(&["size=1m", "sync"]).data, ["size=1m", "sync"]);
    }
}
