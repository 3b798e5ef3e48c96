//! System call filters in docker's form, which says for which machines and rights a rule is, brought to the
//! specification's.

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_runtime::oci::LinuxSeccomp;

use super::answer::Failure;

/// A filter as docker's files have it (moby's `profiles/seccomp`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What rules are chosen by.
pub(super) struct About<'a> {
    /// Whether the container has a capability: `CAP_SYS_ADMIN`.
    pub(super) has: &'a dyn Fn(&str) -> bool,
    /// The kernel: major and minor version.
    pub(super) kernel: (u32, u32),
}

/// This machine, in docker's word and in the library's.
const MACHINE: (&str, &str) = match cfg!(target_arch = "aarch64") {
    true => ("arm64", "SCMP_ARCH_AARCH64"),
    false => ("amd64", "SCMP_ARCH_X86_64"),
};

/// Reads a filter.
pub(super) fn read(text: &str, about: &About<'_>) -> Result<LinuxSeccomp, Failure> {
    let bad =
        |error: &dyn std::fmt::Display| Failure::bad(format!("Decoding seccomp profile failed: {error}"));
    let profile: Profile = serde_json::from_str(text).map_err(|error| bad(&error))?;
    let mapped = profile.arch_map.into_iter().flatten().find(|known| known.architecture == MACHINE.1);
    let mapped = mapped.map(|known| {
        let further = known.sub_architectures.unwrap_or_default();
        std::iter::once(known.architecture).chain(further).collect::<Vec<_>>()
    });
    let rules = profile.syscalls.into_iter().flatten();
    let rules = rules.filter(|rule| {
        rule.includes.as_ref().is_none_or(|wanted| includes(wanted, about))
            && !rule.excludes.as_ref().is_some_and(|unwanted| excludes(unwanted, about))
    });
    let rules = rules.map(|rule| {
        let names: Vec<String> = rule.name.into_iter().chain(rule.names.into_iter().flatten()).collect();
        let mut described = json!({ "names": names, "action": rule.action });
        if let Some(errno) = rule.errno_ret {
            described["errnoRet"] = json!(errno);
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            described["args"] = json!(args);
        }
        described
    });
    let mut described = json!({
        "defaultAction": profile.default_action, "syscalls": rules.collect::<Vec<_>>(),
    });
    let further = [
        ("defaultErrnoRet", json!(profile.default_errno_ret)),
        ("architectures", json!(mapped.or(profile.architectures))),
        ("flags", json!(profile.flags)),
        ("listenerPath", json!(profile.listener_path)),
        ("listenerMetadata", json!(profile.listener_metadata)),
    ];
    for (name, value) in further.into_iter().filter(|(_, value)| !value.is_null()) {
        described[name] = value;
    }
    serde_json::from_value(described).map_err(|error| bad(&error))
}

/// All that is named must be so.
fn includes(wanted: &Condition, about: &About<'_>) -> bool {
    let has = |name: &String| (about.has)(name);
    wanted.caps.as_ref().is_none_or(|caps| caps.iter().all(has))
        && wanted.arches.as_ref().is_none_or(|all| all.is_empty() || all.iter().any(|one| one == MACHINE.0))
        && wanted.min_kernel.as_ref().is_none_or(|least| at_least(about.kernel, least))
}

/// One of those that are named suffices.
fn excludes(unwanted: &Condition, about: &About<'_>) -> bool {
    unwanted.caps.iter().flatten().any(|name| (about.has)(name))
        || unwanted.arches.iter().flatten().any(|one| one == MACHINE.0)
        || unwanted.min_kernel.as_ref().is_some_and(|least| at_least(about.kernel, least))
}

fn at_least(kernel: (u32, u32), least: &str) -> bool {
    kernel >= version(least)
}

/// The first two numbers of a kernel's version.
pub(super) fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let about = About { has: &|name| name == "CAP_SYS_ADMIN", kernel: (5, 10) };
        let filter = read(text, &about).unwrap();
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn rules_are_chosen_by_rights_machine_and_kernel() {
        let text = json!({"defaultAction": "SCMP_ACT_ERRNO", "archMap": [
        {"architecture": MACHINE.1, "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["cachestat"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.5"}},
            {"names": ["s390_runtime_instr"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": null},
        ]});
        assert_eq!(names(&text.to_string()), ["read", "mount", "ptrace", "write"]);
        let about = About { has: &|_| false, kernel: (6, 1) };
        assert_eq!(read(&text.to_string(), &about).unwrap().architectures().iter().flatten().count(), 2);
        for wrong in
            ["", "{}", r#"{"defaultAction": "NOPE"}"#, r#"{"defaultAction": "SCMP_ACT_ALLOW", "x": 1}"#]
        {
            assert!(read(wrong, &about).is_err(), "{wrong}");
        }
    }
}
