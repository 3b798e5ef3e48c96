//! The commands people use most, given to docker's own daemon and to wharf in one run.

use std::process::Command;

use crate::support::lossy;

pub(crate) fn forty_commands() {
    let here = env!("CARGO_MANIFEST_DIR");
    let compared = Command::new("python3")
        .arg(format!("{here}/../../../bench/containers/parity.py"))
        .args(["--steps", &format!("{here}/tests/docker/forty.steps")])
        .env("WHARF", env!("CARGO_BIN_EXE_wharf"))
        .output()
        .unwrap();
    let (out, errors) = (lossy(&compared.stdout), lossy(&compared.stderr));
    assert!(compared.status.success(), "dockerd's answers stand before wharf's:\n{out}{errors}");
    assert!(out.contains(" 0 differ"), "{out}{errors}");
}
