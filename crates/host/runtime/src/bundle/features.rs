//! `features` and `spec`: what this runtime can do, and a specification to begin with.

use std::path::Path;

use super::args::{Args, Flag};
use crate::{
    defaults::SpecOptions,
    error::{Error, ErrorKind, Result},
    launch::{self, When},
    pod_dir::write_text,
    seccomp,
};

/// `features`, in the form of the specification's `features.md`.
pub(super) fn features() -> Result<i32> {
    let capabilities = launch::CAPABILITIES.map(|name| format!("CAP_{name}"));
    let mut archs = vec!["SCMP_ARCH_NATIVE"];
    archs.extend(if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"][..]
    } else {
        &["SCMP_ARCH_AARCH64"][..]
    });
    let flags = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    let text = serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": super::OCI_VERSION,
        "hooks": When::ALL.map(When::name),
        "mountOptions": launch::known_mount_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities.as_slice(),
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true, "actions": seccomp::actions(), "operators": seccomp::operators(), "archs": archs,
                "knownFlags": flags, "supportedFlags": flags,
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
    });
    super::print(&text.to_string())
}

/// `spec`: writes a specification that runs a shell.
pub(super) fn spec(args: &[String]) -> Result<i32> {
    let args = Args::parse("spec", args, &[Flag("bundle", "b", true)])?;
    let path = Path::new(args.get("bundle").unwrap_or(".")).join("config.json");
    if path.exists() {
        return Err(Error::new(ErrorKind::Exists, "write", path.display(), "there is one already"));
    }
    let mut spec = SpecOptions {
        args: vec!["sh".to_owned()],
        env: vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "TERM=xterm".to_owned(),
        ],
        terminal: true,
        readonly_root: true,
        no_new_privileges: true,
        ..SpecOptions::default()
    }
    .build()?;
    spec.set_hostname(Some("wharf".to_owned()));
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|error| Error::invalid("write", path.display(), error))?;
    write_text(&path, &text).map(|()| 0)
}
