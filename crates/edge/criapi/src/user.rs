//! Who a container's program is: what the kubelet asks for, looked up in the image's own files.

use std::path::{Path, PathBuf};

use wharf_image::View;

use crate::{
    grpc::{Failure, Result},
    v1::{LinuxContainerSecurityContext, LinuxContainerUser, SupplementalGroupsPolicy},
};

/// Files of more than this are not read as users.
const LIMIT: u64 = 4 << 20;

/// The files users are looked up in.
#[derive(Debug, Default)]
pub(crate) struct Files {
    passwd: String,
    group: String,
}

impl Files {
    /// Those of an image, whose layers are given with the top first.
    pub(crate) fn of_layers(layers: &[PathBuf]) -> Result<Self> {
        let view = View::overlay(layers)?;
        let read = |path: &str| -> Result<String> {
            let bytes = view.read_file(Path::new(path), LIMIT)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self { passwd: read("etc/passwd")?, group: read("etc/group")? })
    }
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or("")
}

fn id(number: i64, what: &str) -> Result<u32> {
    u32::try_from(number)
        .map_err(|_| Failure::invalid(format_args!("the {what} id {number} is out of range")))
}

/// User, group and further groups, of which the first is the group.
pub(crate) fn resolve(
    security: &LinuxContainerSecurityContext,
    image_user: &str,
    files: &Files,
) -> Result<LinuxContainerUser> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let asked_group = security.run_as_group.as_ref().map(|group| id(group.value, "group")).transpose()?;
    let (user, group) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(user), _) => (id(user.value, "user")?.to_string(), ""),
        (None, "") => {
            if asked_group.is_some() {
                return Err(Failure::invalid("run_as_group needs run_as_user or run_as_username"));
            }
            (image_name.to_owned(), image_group)
        }
        (None, name) => (name.to_owned(), ""),
    };
    let lines = || files.passwd.lines();
    let entry = match user.as_str() {
        "" => lines().find(|line| field(line, 2) == "0"),
        user => lines()
            .find(|line| field(line, 0) == user)
            .or_else(|| lines().find(|line| field(line, 2) == user)),
    };
    let unknown = |what: &str, name: &str| {
        Failure::invalid(format_args!("the image's /etc/passwd and /etc/group name no {what} '{name}'"))
    };
    let uid: u32 = match (entry, user.as_str()) {
        (Some(line), _) => field(line, 2).parse().map_err(|_| unknown("user", &user))?,
        (None, "") => 0,
        (None, user) => user.parse().map_err(|_| unknown("user", user))?,
    };
    let gid: u32 = match (asked_group, group) {
        (Some(group), _) => group,
        (None, "") => entry.and_then(|line| field(line, 3).parse().ok()).unwrap_or(0),
        (None, name) => {
            let named = files.group.lines().find(|line| field(line, 0) == name);
            named.map_or(name, |line| field(line, 2)).parse().map_err(|_| unknown("group", name))?
        }
    };
    let mut groups = vec![gid];
    if security.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
        && let Some(name) = entry.map(|line| field(line, 0))
    {
        let member = |line: &&str| field(line, 3).split(',').any(|member| member.trim() == name);
        groups
            .extend(files.group.lines().filter(member).filter_map(|line| field(line, 2).parse::<u32>().ok()));
    }
    for group in &security.supplemental_groups {
        groups.push(id(*group, "group")?);
    }
    let mut all: Vec<i64> = Vec::new();
    for group in groups.into_iter().map(i64::from) {
        if !all.contains(&group) {
            all.push(group);
        }
    }
    Ok(LinuxContainerUser { uid: uid.into(), gid: gid.into(), supplemental_groups: all })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Int64Value;

    fn check(
        security: LinuxContainerSecurityContext,
        image: &str,
        expected: Result<(i64, i64, &[i64]), &str>,
    ) {
        let files = Files {
            passwd: "root:x:0:0::/root:\napp:x:1000:1001::/:\nbroken\n".to_owned(),
            group: "root:x:0:\napp:x:1001:\naudio:x:29:app\nwheel:x:10:root,app\n".to_owned(),
        };
        match (resolve(&security, image, &files), expected) {
            (Ok(user), Ok((uid, gid, groups))) => {
                assert_eq!((user.uid, user.gid, user.supplemental_groups.as_slice()), (uid, gid, groups));
            }
            (Err(failure), Err(part)) => assert!(failure.message.contains(part), "{failure}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn users_and_groups() {
        let plain = LinuxContainerSecurityContext::default;
        let number = |value| Some(Int64Value { value });
        let user = |value| LinuxContainerSecurityContext { run_as_user: number(value), ..plain() };
        check(plain(), "", Ok((0, 0, &[0, 10])));
        check(plain(), "app", Ok((1000, 1001, &[1001, 29, 10])));
        check(plain(), "app:audio", Ok((1000, 29, &[29, 10])));
        check(user(1000), "root", Ok((1000, 1001, &[1001, 29, 10])));
        check(user(7), "", Ok((7, 0, &[0])));
        let grouped = LinuxContainerSecurityContext {
            run_as_group: number(5),
            supplemental_groups: vec![6, 5],
            ..user(1000)
        };
        check(grouped.clone(), "", Ok((1000, 5, &[5, 29, 10, 6])));
        let strict = LinuxContainerSecurityContext {
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..grouped
        };
        check(strict, "", Ok((1000, 5, &[5, 6])));
        let named = LinuxContainerSecurityContext { run_as_username: "app".to_owned(), ..plain() };
        check(named, "root", Ok((1000, 1001, &[1001, 29, 10])));
        let nobody = LinuxContainerSecurityContext { run_as_username: "nobody".to_owned(), ..plain() };
        check(nobody, "", Err("no user 'nobody'"));
        check(LinuxContainerSecurityContext { run_as_group: number(5), ..plain() }, "", Err("run_as_group"));
        check(user(-1), "", Err("out of range"));
    }
}
