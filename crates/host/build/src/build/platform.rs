//! Platforms by the texts people write for them.

use wharf_image::{ImageConfig, Platform};

use crate::error::{Error, Result};

/// Reads `OS/ARCHITECTURE[/VARIANT]`, `ARCHITECTURE`, `OS` or `local`, in containerd's spellings.
pub fn parse_platform(text: &str) -> Result<Platform> {
    let host = Platform::host();
    let lower = text.trim().to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let is_word = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let bad = || {
        Error::invalid(format!("'{}' is no platform", text.chars().take(100).collect::<String>()))
            .hint("write OS/ARCHITECTURE, such as linux/amd64, linux/arm64 or linux/arm/v7")
    };
    if !parts.iter().all(is_word) {
        return Err(bad());
    }
    let (os, architecture, variant) = match parts.as_slice() {
        ["local"] => return Ok(host),
        [os] if is_os(os) => (*os, host.architecture.as_str(), None),
        [architecture] if is_architecture(architecture) => ("linux", *architecture, None),
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some(*variant)),
        _ => return Err(bad()),
    };
    Ok(normal(os, architecture, variant))
}

fn is_os(word: &str) -> bool {
    matches!(word, "linux" | "windows" | "darwin" | "freebsd" | "macos")
}

fn is_architecture(word: &str) -> bool {
    let known = ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"];
    known.contains(&normal("linux", word, None).architecture.as_str())
}

/// One spelling for each platform.
fn normal(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
    let os = if os == "macos" { "darwin" } else { os };
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("i386" | "i686" | "x86", _) => ("386", None),
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        other => other,
    };
    Platform { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
}

/// The platform an image says it is for; `wanted` where it does not say.
pub(crate) fn platform_of(config: &ImageConfig, wanted: &Platform) -> Platform {
    if config.architecture.is_empty() || config.os.is_empty() {
        return wanted.clone();
    }
    let variant = config.other.get("variant").and_then(|variant| variant.as_str());
    normal(&config.os, &config.architecture, variant.filter(|variant| !variant.is_empty()))
}

/// Whether programs of one platform are what is asked for by the other.
pub(crate) fn is_same(one: &Platform, other: &Platform) -> bool {
    one.os == other.os && one.architecture == other.architecture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_spelling() {
        for (text, expect) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("aarch64", "linux/arm64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(parse_platform(text).unwrap().to_string(), expect, "{text}");
        }
        assert_eq!(parse_platform("local").unwrap(), Platform::host());
        assert_eq!(parse_platform("linux").unwrap(), Platform::host());
        for bad in ["", "/", "linux/", "linux/a/b/c", "nonsense", "linux/a b"] {
            assert!(parse_platform(bad).is_err(), "{bad}");
        }
    }
}
