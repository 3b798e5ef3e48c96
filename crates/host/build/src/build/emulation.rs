//! Whether this machine runs programs of another one, by what the kernel's `binfmt_misc` knows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wharf_image::Platform;

use super::platform::is_same;
use crate::error::{Error, Result};

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// What runs programs of another platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The processor or the kernel, which holds the interpreter open.
    Anywhere,
    /// An interpreter that must be in the container under this path.
    With(PathBuf),
}

/// How programs of `platform` run here, or what to install.
pub(crate) fn runs(platform: &Platform) -> Result<Runs> {
    let host = Platform::host();
    if is_same(platform, &host) || is_native(&host, platform) {
        return Ok(Runs::Anywhere);
    }
    let refused = |what: String| {
        Err(Error::host(what).hint(
            "register one with binfmt_misc, such as Debian's qemu-user-static with binfmt-support; or run the step \
             on this machine's platform: FROM --platform=$BUILDPLATFORM",
        ))
    };
    let Some(header) = header(platform) else {
        return refused(format!("this machine, which is {host}, cannot run programs for {platform}"));
    };
    if fs::read_to_string(Path::new(REGISTERED).join("status"))
        .is_ok_and(|status| status.trim() == "disabled")
    {
        return refused(format!("binfmt_misc is disabled here, so programs for {platform} do not run"));
    }
    let entries = fs::read_dir(REGISTERED).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut found: Vec<Runs> = texts.filter_map(|text| interpreter(&text, &header)).collect();
    // One the kernel holds open needs nothing in the container.
    found.sort_by_key(|runs| *runs != Runs::Anywhere);
    match found.into_iter().next() {
        Some(runs) => Ok(runs),
        None => refused(format!(
            "this machine, which is {host}, has no interpreter for programs of {platform}, and a RUN step needs one"
        )),
    }
}

/// What a processor runs besides its own.
fn is_native(host: &Platform, platform: &Platform) -> bool {
    host.os == platform.os && host.architecture == "amd64" && platform.architecture == "386"
}

/// The beginning of a program for `platform`: an ELF header up to its machine (System V ABI, chapter 4).
fn header(platform: &Platform) -> Option<[u8; 20]> {
    // Class (1: 32 bits, 2: 64), data (1: little endian, 2: big) and machine.
    let (class, data, machine): (u8, u8, u16) = match platform.architecture.as_str() {
        "amd64" => (2, 1, 62),
        "386" => (1, 1, 3),
        "arm64" => (2, 1, 183),
        "arm" => (1, 1, 40),
        "riscv64" => (2, 1, 243),
        "ppc64le" => (2, 1, 21),
        "s390x" => (2, 2, 22),
        "loong64" => (2, 1, 258),
        "mips64le" => (2, 1, 8),
        _ => return None,
    };
    let kind: u16 = 2;
    let word = |word: u16| if data == 1 { word.to_le_bytes() } else { word.to_be_bytes() };
    let ([k0, k1], [m0, m1]) = (word(kind), word(machine));
    Some([0x7f, b'E', b'L', b'F', class, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, k0, k1, m0, m1])
}

/// How an entry of `binfmt_misc` runs programs that begin with `header`; none when it is not for them.
fn interpreter(entry: &str, header: &[u8]) -> Option<Runs> {
    let mut lines = entry.lines();
    if lines.next() != Some("enabled") {
        return None;
    }
    let (mut path, mut flags, mut offset, mut magic, mut mask) = (None, "", 0, Vec::new(), None);
    for line in lines {
        match line.split_once(' ') {
            Some(("interpreter", value)) => path = Some(PathBuf::from(value)),
            Some(("flags:", value)) => flags = value,
            Some(("offset", value)) => offset = value.parse::<usize>().ok()?,
            Some(("magic", value)) => magic = bytes(value)?,
            Some(("mask", value)) => mask = Some(bytes(value)?),
            _ => {}
        }
    }
    let mask = mask.unwrap_or_else(|| vec![0xff; magic.len()]);
    let part = header.get(offset..offset.checked_add(magic.len())?)?;
    let fits = !magic.is_empty()
        && mask.len() == magic.len()
        && part.iter().zip(&magic).zip(&mask).all(|((have, want), mask)| have & mask == want & mask);
    match (fits, flags.contains('F')) {
        (false, _) => None,
        (true, true) => Some(Runs::Anywhere),
        (true, false) => path.map(Runs::With),
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.trim();
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn entries_are_for_the_programs_their_magic_says() {
        let header = |text: &str| header(&super::super::platform::parse_platform(text).unwrap()).unwrap();
        let arm = header("linux/arm64");
        assert_eq!(interpreter(QEMU, &arm), Some(Runs::Anywhere));
        for other in ["linux/amd64", "linux/arm/v7", "linux/s390x", "linux/riscv64"] {
            assert_eq!(interpreter(QEMU, &header(other)), None, "{other}");
        }
        let inside = Runs::With("/usr/bin/qemu-aarch64-static".into());
        assert_eq!(interpreter(&QEMU.replace("OCF", "OC"), &arm), Some(inside));
        for bad in [
            QEMU.replace("enabled", "disabled"),
            QEMU.replace("magic 7f", "magic 7"),
            QEMU.replace("offset 0", "offset 99999999999999999999"),
            QEMU.replace("offset 0", "offset 18446744073709551615"),
            "enabled\nextension .exe\ninterpreter /x\n".into(),
            String::new(),
        ] {
            assert_eq!(interpreter(&bad, &arm), None, "{bad}");
        }
    }
}
