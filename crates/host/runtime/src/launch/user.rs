//! Users and groups by name, as the container's own files tell. Those files are the image's: read with a bound, refused when they are
//! not plain files.

use std::{collections::BTreeSet, io::Read, os::unix::fs::OpenOptionsExt};

use crate::error::{Context, Error, Result};

/// Who the program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// The home folder `/etc/passwd` names.
    pub(super) home: Option<String>,
}

/// Files of more than this are not read as users.
const LIMIT: u64 = 4 << 20;

fn read(path: &str) -> Result<String> {
    let opened =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.step("read", path)?,
    };
    if !file.metadata().step("read", path)?.is_file() {
        return Err(Error::invalid("read", path, "it is not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).step("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Looks `wanted` (`user`, `user:group`, by name or number) up in the files of the root this process is in.
pub(super) fn look_up(wanted: &str) -> Result<Identity> {
    resolve(wanted, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Groups by name or number.
pub(super) fn groups(wanted: &[String]) -> Result<Vec<u32>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let group = read("/etc/group")?;
    wanted.iter().map(|name| group_of(name, &group)).collect()
}

fn group_of(name: &str, group: &str) -> Result<u32> {
    let entry = group.lines().find(|line| field(line, 0) == name && !name.is_empty());
    number(entry.map_or(name, |line| field(line, 2)), "group", name)
}

/// The home folder of a user given by number.
pub(super) fn home_of(uid: u32) -> Option<String> {
    let passwd = read("/etc/passwd").ok()?;
    passwd.lines().find(|line| field(line, 2).parse() == Ok(uid)).map(|line| field(line, 5).to_owned())
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or("")
}

fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) =
        wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
    let by_name = passwd.lines().find(|line| field(line, 0) == user && !user.is_empty());
    let by_number = || passwd.lines().find(|line| !user.is_empty() && field(line, 2) == user);
    let entry = by_name.or_else(by_number);
    let mut identity = match entry {
        Some(line) => Identity {
            uid: number(field(line, 2), "user", user)?,
            gid: number(field(line, 3), "group of user", user)?,
            groups: Vec::new(),
            home: Some(field(line, 5).to_owned()).filter(|home| !home.is_empty()),
        },
        None if user.is_empty() => Identity::default(),
        None => Identity { uid: number(user, "user", user)?, ..Identity::default() },
    };
    match wanted_group.filter(|name| !name.is_empty()) {
        Some(name) => {
            identity.gid = group_of(name, group)?;
        }
        None => {
            if let Some(name) = entry.map(|line| field(line, 0)) {
                identity.groups = member_of(name, group);
            }
        }
    }
    Ok(identity)
}

fn number(text: &str, what: &str, subject: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Error::invalid(
            &format!("find the {what}"),
            subject,
            "the container's /etc/passwd and /etc/group do not name it",
        )
    })
}

fn member_of(name: &str, group: &str) -> Vec<u32> {
    let groups: BTreeSet<u32> = group
        .lines()
        .filter(|line| field(line, 3).split(',').any(|member| member.trim() == name))
        .filter_map(|line| field(line, 2).parse().ok())
        .collect();
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn check(wanted: &str, expected: Option<(u32, u32, &[u32], Option<&str>)>) {
        let got = resolve(wanted, PASSWD, GROUP).ok();
        let expected = expected.map(|(uid, gid, groups, home)| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        });
        assert_eq!(got, expected, "{wanted}");
    }

    #[test]
    fn finds_users_by_name_and_number() {
        check("app", Some((1000, 1001, &[10, 29], Some("/home/app"))));
        check("1000", Some((1000, 1001, &[10, 29], Some("/home/app"))));
        check("app:audio", Some((1000, 29, &[], Some("/home/app"))));
        check("4711", Some((4711, 0, &[], None)));
        check("4711:12", Some((4711, 12, &[], None)));
        check("nobody", None);
        check("app:nogroup", None);
        check("-1", None);
    }
}
