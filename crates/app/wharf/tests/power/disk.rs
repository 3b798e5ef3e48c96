//! A disk that remembers what was written to it in which order, so that its power can be cut at any moment of the past.
//!
//! A file system of one file, in user space, lies below a loop device: each write and each flush of the device comes here.
//! What lay in the device's cache when the power went, that is what was written after the last flush, may be on the disk or
//! not, each sector for itself.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use crate::support::output_of;

const BYTES: u64 = 2 << 30;
const MAX_WRITE: usize = 128 << 10;
const SECTOR: usize = 512;

/// Something that reached the disk.
enum Event {
    /// Bytes to this offset, which lie there in the record.
    Write { at: u64, from: u64, length: usize },
    /// All that came before stays, whatever happens.
    Flush,
}

struct Recorded {
    events: Vec<Event>,
    /// All that was written, one after the other.
    bytes: File,
    end: u64,
    /// The disk as it is.
    now: File,
}

/// The disk, and the loop device it is known by.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    pub(crate) device: PathBuf,
    recorded: Arc<Mutex<Recorded>>,
    server: Option<JoinHandle<()>>,
}

impl Disk {
    /// A new one, with an empty ext4 on it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("wharf-disk.").tempdir_in("/var/tmp").unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
        };
        let (bytes, now) = (file("bytes"), file("now"));
        now.set_len(BYTES).unwrap();
        let recorded = Arc::new(Mutex::new(Recorded { events: Vec::new(), bytes, end: 0, now }));
        let at = folder.path().join("mount");
        fs::create_dir(&at).unwrap();
        let channel = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", channel.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("wharf-disk", &at, "fuse", MountFlags::empty(), Some(data.as_c_str())).unwrap();
        let server = std::thread::spawn({
            let recorded = Arc::clone(&recorded);
            move || serve(channel, &recorded)
        });
        let mut disk = Self { folder, device: PathBuf::new(), recorded, server: Some(server) };
        disk.device = attach(&at.join("disk"));
        // Without discards: the device does not pass them on.
        output_of(Command::new("mkfs.ext4").args(["-q", "-E", "nodiscard"]).arg(&disk.device));
        disk
    }

    /// How much has happened so far.
    pub(crate) fn position(&self) -> usize {
        self.recorded.lock().unwrap().events.len()
    }

    /// The disk as a power cut at that moment could have left it, on a loop device of its own.
    pub(crate) fn cut(&self, position: usize, seed: u64) -> Cut {
        let recorded = self.recorded.lock().unwrap();
        let file = tempfile::Builder::new().prefix("cut.").tempfile_in(self.folder.path()).unwrap();
        file.as_file().set_len(BYTES).unwrap();
        let events = &recorded.events[..position];
        let flushed = events.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        let mut random = Random(seed);
        for (index, event) in events.iter().enumerate() {
            let Event::Write { at, from, length } = *event else { continue };
            let mut bytes = vec![0; length];
            recorded.bytes.read_exact_at(&mut bytes, from).unwrap();
            if index < flushed {
                file.as_file().write_all_at(&bytes, at).unwrap();
                continue;
            }
            match random.next() % 4 {
                0 => {}
                1 => {
                    for (number, sector) in
                        bytes.chunks(SECTOR).enumerate().filter(|_| random.next().is_multiple_of(2))
                    {
                        file.as_file().write_all_at(sector, at + (number * SECTOR) as u64).unwrap();
                    }
                }
                _ => file.as_file().write_all_at(&bytes, at).unwrap(),
            }
        }
        let device = attach(file.path());
        Cut { device, _file: file }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.device.as_os_str().is_empty() {
            detach(&self.device);
        }
        let _ = rustix::mount::unmount(self.folder.path().join("mount"), UnmountFlags::DETACH);
        // Ends when the last user of the device has gone.
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// A disk after a power cut.
pub(crate) struct Cut {
    pub(crate) device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Drop for Cut {
    fn drop(&mut self) {
        detach(&self.device);
    }
}

fn attach(file: &Path) -> PathBuf {
    output_of(Command::new("losetup").args(["--find", "--show"]).arg(file)).trim().into()
}

fn detach(device: &Path) {
    let _ = Command::new("losetup").arg("--detach").arg(device).status();
}

/// xorshift64*, so that a seed says all.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

/// Numbers of requests and the lengths of what they bring, of the kernel's `fuse.h`.
mod fuse {
    pub(super) const HEADER: usize = 40;
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const ACCESS: u32 = 34;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const MAX_WRITE_HEADER: usize = 40;
}

fn serve(mut channel: File, recorded: &Mutex<Recorded>) {
    let mut buffer = vec![0; fuse::HEADER + fuse::MAX_WRITE_HEADER + MAX_WRITE + 4096];
    loop {
        // Ends with an error when it is unmounted.
        let Ok(length) = channel.read(&mut buffer) else { return };
        let request = &buffer[..length];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, node) = (word(4), u64::from_ne_bytes(request[16..24].try_into().unwrap()));
        let body = &request[fuse::HEADER..];
        let Some(answer) = answer(opcode, node, body, recorded) else {
            if opcode == fuse::DESTROY {
                return;
            }
            continue;
        };
        let (error, payload) = match answer {
            Ok(payload) => (0, payload),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + payload.len());
        reply.extend_from_slice(&u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        reply.extend_from_slice(&error.to_ne_bytes());
        reply.extend_from_slice(&request[8..16]);
        reply.extend_from_slice(&payload);
        // Whoever asked may be gone.
        let _ = channel.write_all(&reply);
    }
}

/// The answer to a request; nothing to those that want none.
fn answer(opcode: u32, node: u64, body: &[u8], recorded: &Mutex<Recorded>) -> Option<Result<Vec<u8>, i32>> {
    let long = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().unwrap());
    let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
    Some(Ok(match opcode {
        fuse::FORGET | fuse::BATCH_FORGET | fuse::INTERRUPT | fuse::DESTROY => return None,
        // Version, read-ahead, flags, background requests, largest write, granularity of times; the rest is unused.
        fuse::INIT => {
            let mut init = words(&[7, 31, MAX_WRITE as u32, 0x21, 0x0010_0010, MAX_WRITE as u32, 1]);
            init.resize(64, 0);
            init
        }
        fuse::LOOKUP if body == b"disk\0" => {
            let mut entry = longs(&[2, 0, 3600, 3600]);
            entry.extend(words(&[0, 0]));
            entry.extend(attributes(2));
            entry
        }
        fuse::LOOKUP => return Some(Err(Errno::NOENT.raw_os_error())),
        fuse::GETATTR | fuse::SETATTR => {
            let mut attr = longs(&[3600, 0]);
            attr.extend(attributes(node));
            attr
        }
        fuse::OPEN | fuse::OPENDIR => longs(&[0, 0]),
        fuse::READ => {
            let mut bytes = vec![0; word(16) as usize];
            let read = recorded.lock().unwrap().now.read_at(&mut bytes, long(8)).unwrap();
            bytes.truncate(read);
            bytes
        }
        fuse::WRITE => {
            let (at, bytes) = (long(8), &body[fuse::MAX_WRITE_HEADER..]);
            let mut recorded = recorded.lock().unwrap();
            let from = recorded.end;
            recorded.bytes.write_all_at(bytes, from).unwrap();
            recorded.now.write_all_at(bytes, at).unwrap();
            recorded.end += bytes.len() as u64;
            recorded.events.push(Event::Write { at, from, length: bytes.len() });
            words(&[bytes.len() as u32, 0])
        }
        fuse::FSYNC => {
            recorded.lock().unwrap().events.push(Event::Flush);
            Vec::new()
        }
        fuse::STATFS => vec![0; 80],
        fuse::FLUSH | fuse::RELEASE | fuse::RELEASEDIR | fuse::ACCESS => Vec::new(),
        _ => return Some(Err(Errno::NOSYS.raw_os_error())),
    }))
}

/// `fuse_attr`: the folder is 1, its only file 2.
fn attributes(node: u64) -> Vec<u8> {
    let (size, mode, links) = if node == 2 { (BYTES, 0o100_600, 1) } else { (0, 0o040_755, 2) };
    let mut attr = longs(&[node, size, size / 512, 0, 0, 0]);
    attr.extend(words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0]));
    attr
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}
