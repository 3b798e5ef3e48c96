//! A new log file in the place of one the kubelet has renamed.
//!
//! The shim writes to the file it has opened, whatever its name becomes. So that the renamed file stays as it is and the log goes on
//! under its own name, the two change places: what was written is copied to the renamed name, and the shim's file goes back to its own
//! name, empty. The shim stands still meanwhile, so that nothing is lost.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process stops at once, or when it comes back from the kernel.
const STOPPING: Duration = Duration::from_secs(2);

/// How a file is known whatever its name.
pub(crate) fn inode(path: &Path) -> io::Result<Vec<u64>> {
    let meta = fs::metadata(path)?;
    Ok(vec![meta.dev(), meta.ino()])
}

/// A process that stands still as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        kill_process(pid, Signal::STOP)?;
        let stopped = Self(pid);
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let deadline = Instant::now() + STOPPING;
        loop {
            let stat = fs::read_to_string(&path)?;
            // The name before it is in brackets, and may have any.
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't'])) {
                return Ok(stopped);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the shim does not stand still"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Gone is as good.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Lets a shim that stood still when its wharf was killed go on.
pub(crate) fn go_on(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Begins a new file at `path` for the log the shim `pid` writes to the file known by `inode`.
///
/// # Errors
/// When the file has been removed, or cannot be copied.
pub(crate) fn reopen(pid: i32, path: &Path, inode: &[u64]) -> io::Result<()> {
    if self::inode(path).is_ok_and(|now| now == inode) {
        // It was not renamed.
        return Ok(());
    }
    let _stopped = Stopped::new(pid)?;
    let renamed = open_by(pid, inode)?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the log was removed while its container writes to it")
    })?;
    let draft = path.with_extension("draft");
    fs::copy(&renamed, &draft)?;
    fs::rename(&renamed, path)?;
    fs::rename(&draft, &renamed)?;
    // Writers append: they go on at the new beginning.
    fs::OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// The name a process' open file has now; nothing when it has none any more.
fn open_by(pid: i32, inode: &[u64]) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let link = entry?.path();
        if self::inode(&link).is_ok_and(|found| found == inode) {
            let name = fs::read_link(&link)?;
            return Ok(self::inode(&name).is_ok_and(|found| found == inode).then_some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_log_goes_on_in_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("0.log"), folder.path().join("0.log.1"));
        let log = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let inode = inode(&path).unwrap();
        let mut writer = Command::new("cat").stdin(Stdio::piped()).stdout(log).spawn().unwrap();
        let pid = writer.id() as i32;
        let mut input = writer.stdin.take().unwrap();
        let mut say = |text: &str, path: &Path| {
            input.write_all(text.as_bytes()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while !fs::read_to_string(path).unwrap().ends_with(text) {
                assert!(Instant::now() < deadline);
            }
        };
        say("one\n", &path);
        reopen(pid, &path, &inode).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        fs::rename(&path, &old).unwrap();
        reopen(pid, &path, &inode).unwrap();
        say("two\n", &path);
        assert_eq!(
            (fs::read_to_string(&old).unwrap(), fs::read_to_string(&path).unwrap()),
            ("one\n".into(), "two\n".into())
        );
        fs::remove_file(&path).unwrap();
        let failed = reopen(pid, &path, &inode).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
        drop(input);
        assert!(writer.wait().unwrap().success());
    }
}
