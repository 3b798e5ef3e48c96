//! The values of `RUN --mount`.

use wharf_base::closest;

use super::words;
use crate::error::{Error, Result};

/// `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its type.
    pub kind: MountKind,
    /// Where in the container.
    pub target: Option<String>,
    /// Path in the source.
    pub source: String,
    /// Stage or image the source is in.
    pub from: Option<String>,
    /// Whether it cannot be written to.
    pub readonly: bool,
    /// Name of a cache or secret.
    pub id: Option<String>,
    /// How builds share a cache.
    pub sharing: Sharing,
    /// Whether a secret must be given.
    pub required: bool,
    /// The variable a secret is put in.
    pub env: Option<String>,
    /// Mode of a cache folder or secret.
    pub mode: Option<u32>,
    /// Owner of a cache folder or secret.
    pub uid: u32,
    /// Group of a cache folder or secret.
    pub gid: u32,
    /// Largest size of a tmpfs.
    pub size: Option<u64>,
}

/// Types of `RUN --mount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the type of its name")]
pub enum MountKind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// How builds that run at once share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All use it at once.
    #[default]
    Shared,
    /// One uses it, others get a new one.
    Private,
    /// One after the other.
    Locked,
}

/// Puts variables into a value.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String>;

/// Reads a `RUN --mount` value. Without `expand`, only what holds no variable is checked.
pub fn parse_mount(text: &str, expand: Option<Expand<'_>>) -> Result<Mount> {
    let bad = |what: String| Error::invalid(format!("RUN --mount: {what}"));
    let fields = words::csv(text)
        .map_err(|problem| bad(problem.to_owned()).hint("write KEY=VALUE, separated by commas"))?;
    let mut mount = Mount {
        kind: MountKind::Bind,
        target: None,
        source: String::new(),
        from: None,
        readonly: false,
        id: None,
        sharing: Sharing::Shared,
        required: false,
        env: None,
        mode: None,
        uid: 0,
        gid: 0,
        size: None,
    };
    let (mut readonly, mut has_sharing, mut has_owner) = (None, false, false);
    for field in &fields {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        let key = key.to_ascii_lowercase();
        let has_value = field.contains('=');
        if !has_value && !matches!(key.as_str(), "ro" | "readonly" | "rw" | "readwrite" | "required") {
            return Err(bad(format!("'{field}' needs a value")).hint("write KEY=VALUE, separated by commas"));
        }
        let value = match expand {
            Some(expand) if has_value => expand(value)?,
            None if value.contains('$') => continue,
            _ => value.to_owned(),
        };
        let wrong = || {
            let hint = match key.as_str() {
                "size" => "write a size such as 64m or 1g",
                "mode" => "write the mode in octal, such as 0755",
                "uid" | "gid" => "write a number, such as 1000",
                _ => "write true or false",
            };
            bad(format!("'{field}' cannot be read")).hint(hint)
        };
        let number = |radix| u32::from_str_radix(&value, radix).map_err(|_| wrong());
        match key.as_str() {
            "type" => mount.kind = mount_kind(&value)?,
            "from" => mount.from = Some(value),
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = Some(value),
            "ro" | "readonly" => readonly = Some(boolean(&value).ok_or_else(wrong)?),
            "rw" | "readwrite" => readonly = Some(!boolean(&value).ok_or_else(wrong)?),
            "required" => mount.required = boolean(&value).ok_or_else(wrong)?,
            "id" => mount.id = Some(value),
            "env" => mount.env = Some(value),
            "size" => mount.size = Some(size(&value).ok_or_else(wrong)?),
            "sharing" => {
                has_sharing = true;
                mount.sharing = match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(wrong().hint("sharing is shared, private or locked")),
                };
            }
            "mode" => (mount.mode, has_owner) = (Some(number(8)?), true),
            "uid" => (mount.uid, has_owner) = (number(10)?, true),
            "gid" => (mount.gid, has_owner) = (number(10)?, true),
            other => {
                let known = [
                    "type",
                    "from",
                    "source",
                    "target",
                    "readonly",
                    "readwrite",
                    "id",
                    "sharing",
                    "required",
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "env",
                ];
                let hint = closest(other, known).map(|near| format!("did you mean {near}?"));
                let hint = hint.unwrap_or_else(|| format!("the keys are: {}", known.join(", ")));
                return Err(bad(format!("the key '{other}' is not known")).hint(hint));
            }
        }
    }
    let kind = mount.kind;
    mount.readonly = readonly.unwrap_or(matches!(kind, MountKind::Bind | MountKind::Secret | MountKind::Ssh));
    let misplaced = [
        (mount.size.is_some() && kind != MountKind::Tmpfs, "size"),
        (has_sharing && kind != MountKind::Cache, "sharing"),
        (mount.required && !matches!(kind, MountKind::Secret | MountKind::Ssh), "required"),
        (mount.env.is_some() && kind != MountKind::Secret, "env"),
        (has_owner && matches!(kind, MountKind::Bind | MountKind::Tmpfs), "mode, uid or gid"),
        (mount.from.is_some() && kind == MountKind::Secret, "from"),
    ];
    // Without variables put in, the type may still be another.
    if expand.is_some() || !text.contains('$') {
        if let Some((_, key)) = misplaced.iter().find(|(wrong, _)| *wrong) {
            let hint = format!("leave {key} out, or choose another type");
            return Err(bad(format!("{key} does not go with type={}", kind.name())).hint(hint));
        }
        match kind {
            MountKind::Secret if mount.id.is_none() && mount.source.is_empty() && mount.target.is_none() => {
                return Err(bad("a secret needs an id".into())
                    .hint("add id=NAME, and build with --secret id=NAME,src=FILE"));
            }
            MountKind::Cache if mount.from.is_none() && !mount.source.is_empty() => {
                return Err(bad("source of a cache needs from".into())
                    .hint("name the stage that has the folder: from=STAGE"));
            }
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs if mount.target.is_none() => {
                return Err(bad("target is missing".into()).hint("add target=/PATH"));
            }
            _ => {}
        }
    }
    Ok(mount)
}

impl MountKind {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn mount_kind(text: &str) -> Result<MountKind> {
    const ALL: [MountKind; 5] =
        [MountKind::Bind, MountKind::Cache, MountKind::Tmpfs, MountKind::Secret, MountKind::Ssh];
    let lower = text.to_ascii_lowercase();
    ALL.into_iter().find(|kind| kind.name() == lower).ok_or_else(|| {
        let near = closest(&lower, ALL.map(MountKind::name));
        let hint =
            near.map_or("use bind, cache, tmpfs, secret or ssh".into(), |n| format!("did you mean {n}?"));
        Error::invalid(format!("RUN --mount: the type '{text}' is not known")).hint(hint)
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix('b').unwrap_or(&lower);
    let plain = plain.strip_suffix('i').unwrap_or(plain);
    let shift = match plain.bytes().last()? {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        _ => return plain.parse().ok(),
    };
    plain.get(..plain.len() - 1)?.parse::<u64>().ok()?.checked_mul(1 << shift)
}
