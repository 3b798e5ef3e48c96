//! Options of `wharf build` in docker's words: `--output type=local,dest=DIR`, `--secret id=ID,src=FILE` and the like.

use std::path::{Path, PathBuf};

use anyhow::bail;
use wharf_base::Hinted;
use wharf_build::{Allowed, CachePlace, CacheTarget, NamedContext, Secret};

/// The fields of `key=value,key=value`, quoted where a value has commas.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => {
                if let Some(part) = parts.last_mut() {
                    part.push(c);
                }
            }
        }
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.trim().to_ascii_lowercase(), value.to_owned()),
        None => (part.trim().to_owned(), String::new()),
    };
    parts.into_iter().map(pair).collect()
}

pub(super) fn wrong(flag: &str, text: &str, what: &str, hint: &str) -> anyhow::Error {
    Hinted::new(format!("{flag} {text} {what}"), hint).into()
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// The image store, under these names besides the tags; to the registry too.
    Image { names: Vec<String>, push: bool, as_image: bool },
    /// An archive that docker and every OCI tool read; standard output where no file is named.
    Archive { names: Vec<String>, dest: Option<PathBuf>, folder: bool, as_image: bool },
    /// Files in a folder.
    Local(PathBuf),
    /// Files in a tar stream; standard output where no file is named.
    Tar(Option<PathBuf>),
}

impl Output {
    /// The names it gives the image besides the tags.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Image { names, .. } | Self::Archive { names, .. } => names,
            Self::Local(_) | Self::Tar(_) => &[],
        }
    }

    /// `oci-artifact=false`: attestations lie under an image configuration.
    pub(super) fn wants_image_config(&self) -> bool {
        matches!(self, Self::Image { as_image: true, .. } | Self::Archive { as_image: true, .. })
    }
}

impl std::str::FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        const HINT: &str =
            "write a folder, '-' for a tar stream, or type=image|oci|docker|tar|local with dest=PATH";
        if text == "-" {
            return Ok(Self::Tar(None));
        }
        if !text.contains('=') && !text.contains(',') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let (mut kind, mut dest, mut names) = (String::new(), None, Vec::new());
        let (mut push, mut tar, mut to_stdout, mut as_image) = (false, true, false, false);
        for (key, value) in fields(text) {
            match key.as_str() {
                "type" => kind = value,
                "dest" | "destination" => {
                    to_stdout = value == "-";
                    dest = Some(value).filter(|dest| dest != "-").map(PathBuf::from);
                }
                "name" => names.extend(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned)),
                "push" => push = value != "false",
                "oci-artifact" => as_image = value == "false",
                "tar" => tar = value != "false",
                // Times are clamped to SOURCE_DATE_EPOCH wherever it is given; layers are gzip.
                "rewrite-timestamp" => {}
                "oci-mediatypes" | "store" if value != "false" => {}
                "compression" if value == "gzip" => {}
                _ => {
                    return Err(wrong(
                        "--output",
                        text,
                        &format!("has '{key}={value}', which is not supported"),
                        HINT,
                    ));
                }
            }
        }
        Ok(match kind.as_str() {
            "image" => Self::Image { names, push, as_image },
            "registry" => Self::Image { names, push: true, as_image },
            // As docker has it: without a file, the store is meant.
            "docker" if dest.is_none() && !to_stdout => Self::Image { names, push, as_image },
            "oci" | "docker" if tar || dest.is_some() => {
                Self::Archive { names, dest, folder: !tar, as_image }
            }
            "local" => Self::Local(dest.ok_or_else(|| wrong("--output", text, "has no dest", HINT))?),
            "tar" => Self::Tar(dest),
            other => {
                return Err(wrong(
                    "--output",
                    text,
                    &format!("has the type '{other}', which is not known"),
                    HINT,
                ));
            }
        })
    }
}

/// A cache that is a service of somebody else.
fn service(flag: &str, text: &str, kind: &str) -> anyhow::Error {
    let hint =
        "write type=local and keep the folder with the pipeline's own cache, or type=registry,ref=IMAGE";
    wrong(flag, text, &format!("names the service '{kind}', which this builder does not speak to"), hint)
}

/// `--cache-from`; a bare name is an image, as docker has it.
pub(super) fn cache_from(text: &str) -> anyhow::Result<CachePlace> {
    const HINT: &str = "write type=local,src=DIR or type=registry,ref=IMAGE";
    if !text.contains('=') {
        return Ok(CachePlace::Image(super::reference(text)?));
    }
    let (mut kind, mut source, mut image) = (String::new(), None, None);
    for (key, value) in fields(text) {
        match key.as_str() {
            "type" => kind = value,
            "src" | "source" => source = Some(PathBuf::from(value)),
            "ref" => image = Some(super::reference(&value)?),
            _ => return Err(wrong("--cache-from", text, &format!("has '{key}', which is not known"), HINT)),
        }
    }
    match (kind.as_str(), source, image) {
        ("local", Some(source), None) => Ok(CachePlace::Folder(source)),
        ("registry", None, Some(image)) => Ok(CachePlace::Image(image)),
        ("local" | "registry", ..) => Err(wrong("--cache-from", text, "does not say where it is", HINT)),
        (kind @ ("gha" | "s3" | "azblob"), ..) => Err(service("--cache-from", text, kind)),
        _ => Err(wrong("--cache-from", text, "is no cache this builder reads", HINT)),
    }
}

/// `--cache-to`; none for `type=inline`, whose place is the image itself.
pub(super) fn cache_to(text: &str) -> anyhow::Result<Option<CacheTarget>> {
    const HINT: &str =
        "write type=local,dest=DIR, type=registry,ref=IMAGE or type=inline, and mode=max for all stages";
    let (mut kind, mut folder, mut image, mut all_stages) = (String::new(), None, None, false);
    for (key, value) in fields(text) {
        match (key.as_str(), value.as_str()) {
            ("type", _) => kind = value,
            ("dest", _) => folder = Some(PathBuf::from(value)),
            ("ref", _) => image = Some(super::reference(&value)?),
            ("mode", "min" | "max") => all_stages = value == "max",
            _ => {
                let what = format!("has '{key}={value}', which is not supported");
                return Err(wrong("--cache-to", text, &what, HINT));
            }
        }
    }
    let place = match (kind.as_str(), folder, image) {
        ("inline", None, None) => return Ok(None),
        ("local", Some(folder), None) => CachePlace::Folder(folder),
        ("registry", None, Some(image)) => CachePlace::Image(image),
        ("local" | "registry", ..) => {
            return Err(wrong("--cache-to", text, "does not say where it goes", HINT));
        }
        (kind @ ("gha" | "s3" | "azblob"), ..) => return Err(service("--cache-to", text, kind)),
        _ => return Err(wrong("--cache-to", text, "is no cache this builder writes", HINT)),
    };
    Ok(Some(CacheTarget { place, all_stages }))
}

/// `--build-context NAME=VALUE`.
pub(super) fn context(text: &str) -> anyhow::Result<(String, NamedContext)> {
    const HINT: &str = "write NAME=FOLDER, NAME=docker-image://IMAGE, NAME=oci-layout://FOLDER or NAME=URL";
    let Some((name, value)) =
        text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
    else {
        return Err(wrong("--build-context", text, "is not NAME=VALUE", HINT));
    };
    let context = if let Some(image) = value.strip_prefix("docker-image://") {
        NamedContext::Image(image.to_owned())
    } else if let Some(folder) = value.strip_prefix("oci-layout://") {
        NamedContext::Layout(PathBuf::from(folder))
    } else if is_address(value) {
        NamedContext::Remote(value.to_owned())
    } else if Path::new(value).is_dir() {
        NamedContext::Folder(PathBuf::from(value))
    } else {
        return Err(wrong("--build-context", text, "names no folder", HINT));
    };
    Ok((name.to_owned(), context))
}

/// Whether a context is an address and no path.
pub(super) fn is_address(text: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
}

/// `--secret`.
pub(super) fn secret(text: &str) -> anyhow::Result<(String, Secret)> {
    let wrong = |what: &str| wrong("--secret", text, what, "write id=ID,src=FILE or id=ID,env=NAME");
    let (mut id, mut source, mut env) = (None, None, None);
    for (key, value) in fields(text) {
        match (key.as_str(), value.as_str()) {
            ("id", _) => id = Some(value),
            ("src" | "source", _) => source = Some(PathBuf::from(value)),
            ("env", _) => env = Some(value),
            ("type", "file" | "env") => {}
            _ => return Err(wrong(&format!("has '{key}', which is not known"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("has no id"))?;
    if let Some(path) = source {
        if !path.is_file() {
            return Err(wrong(&format!("names '{}', which is no file", path.display())));
        }
        return Ok((id, Secret::File(path)));
    }
    let name = env.unwrap_or_else(|| id.clone());
    match std::env::var(&name) {
        Ok(value) => Ok((id, Secret::Value(value.into_bytes()))),
        Err(_) => Err(wrong("has no src, and the environment has no variable of that name")),
    }
}

/// `--ssh default`, `--ssh ID=SOCKET`.
pub(super) fn ssh(text: &str) -> anyhow::Result<(String, PathBuf)> {
    use std::os::unix::fs::FileTypeExt as _;
    let (id, socket) = match text.split_once('=') {
        Some((id, path)) => (id, Some(PathBuf::from(path))),
        None => (text, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)),
    };
    let Some(socket) = socket else {
        return Err(wrong(
            "--ssh",
            text,
            "needs an agent, and SSH_AUTH_SOCK is not set",
            "start one: eval $(ssh-agent)",
        ));
    };
    match std::fs::metadata(&socket) {
        Ok(meta) if meta.file_type().is_socket() => Ok((id.to_owned(), socket)),
        Ok(_) => Err(wrong(
            "--ssh",
            text,
            "names a file that is no socket; keys themselves are not read",
            "add the key to an agent with ssh-add, and name the agent's socket",
        )),
        Err(error) => Err(wrong(
            "--ssh",
            text,
            &format!("names '{}': {error}", socket.display()),
            "name the socket of an agent",
        )),
    }
}

/// `--allow`.
pub(super) fn allowed(given: &[String]) -> anyhow::Result<Allowed> {
    let mut allowed = Allowed::default();
    for text in given {
        if let Some(device) = text.strip_prefix("device=") {
            allow_device(text, device, &mut allowed)?;
            continue;
        }
        allow(text, &mut allowed)?;
    }
    Ok(allowed)
}

/// `--allow device=NAME[,alias=OTHER]`: steps that ask for OTHER get NAME.
fn allow_device(text: &str, device: &str, allowed: &mut Allowed) -> anyhow::Result<()> {
    let (name, alias) = match device.split_once(',') {
        None => (device, None),
        Some((name, more)) => match more.strip_prefix("alias=").filter(|alias| !alias.is_empty()) {
            Some(alias) => (name, Some(alias)),
            None => {
                return Err(wrong(
                    "--allow",
                    text,
                    "is not known",
                    "write device=NAME or device=NAME,alias=OTHER",
                ));
            }
        },
    };
    if name.is_empty() {
        return Err(wrong("--allow", text, "names no device", "write device=NAME, or device for all"));
    }
    let names = &mut allowed.devices.names;
    match alias {
        Some(alias) => drop(names.insert(alias.to_owned(), Some(name.to_owned()))),
        None => drop(names.insert(name.to_owned(), None)),
    }
    Ok(())
}

fn allow(names: &str, allowed: &mut Allowed) -> anyhow::Result<()> {
    for name in names.split(',') {
        match name {
            "device" => allowed.devices.all = true,
            "security.insecure" => allowed.insecure = true,
            "network.host" => allowed.host_network = true,
            other => {
                return Err(wrong(
                    "--allow",
                    other,
                    "is not known",
                    "use security.insecure, network.host or device",
                ));
            }
        }
    }
    Ok(())
}

/// `--add-host NAME:ADDRESS`; `host-gateway` is not known here.
pub(super) fn host(text: &str) -> anyhow::Result<(String, String)> {
    let cut = text.find(['=', ':']).filter(|cut| *cut > 0);
    let (name, address) = cut.map_or((text, ""), |cut| (&text[..cut], &text[cut + 1..]));
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => Ok((name.to_owned(), address.to_string())),
        Err(_) => Err(wrong("--add-host", text, "has no address", "write NAME:ADDRESS")),
    }
}

/// A size with a unit: `64m`.
pub(super) fn size(text: &str) -> anyhow::Result<u64> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.trim_end_matches('b');
    let (digits, shift) = match plain.as_bytes().last() {
        Some(b'k') => (&plain[..plain.len() - 1], 10),
        Some(b'm') => (&plain[..plain.len() - 1], 20),
        Some(b'g') => (&plain[..plain.len() - 1], 30),
        _ => (plain, 0),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => bail!("--shm-size {text} is no size; write it as 64m or 1g"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_dockers() {
        let read = |text: &str| text.parse::<Output>().ok();
        assert_eq!(read("-"), Some(Output::Tar(None)));
        assert_eq!(read("out/x"), Some(Output::Local("out/x".into())));
        assert_eq!(read("type=local,dest=o"), Some(Output::Local("o".into())));
        assert_eq!(read("type=tar,dest=-"), Some(Output::Tar(None)));
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            read("type=image,\"name=a,b\",push=true"),
            Some(Output::Image { names, push: true, as_image: false })
        );
        let oci = Output::Archive { names: vec![], dest: Some("d".into()), folder: true, as_image: true };
        assert_eq!(read("type=oci,dest=d,tar=false,oci-artifact=false"), Some(oci));
        assert_eq!(read("type=docker"), Some(Output::Image { names: vec![], push: false, as_image: false }));
        let piped = Output::Archive { names: vec![], dest: None, folder: false, as_image: false };
        assert_eq!(read("type=docker,dest=-"), Some(piped));
        for bad in [
            "type=image,store=false",
            "type=local",
            "type=x",
            "dest=a",
            "type=image,compression=estargz",
            "type=oci,tar=false",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn caches_contexts_and_hosts_are_read() {
        assert_eq!(cache_from("type=local,src=/c").unwrap(), CachePlace::Folder("/c".into()));
        let image = CachePlace::Image("a/b:c".parse().unwrap());
        assert_eq!(
            (cache_from("type=registry,ref=a/b:c").unwrap(), cache_from("a/b:c").unwrap()),
            (image.clone(), image)
        );
        assert!(cache_to("type=local,dest=/c,mode=max").unwrap().unwrap().all_stages);
        assert_eq!(cache_to("type=inline").unwrap(), None);
        for bad in ["type=gha", "type=local", "type=registry", "type=local,ref=x"] {
            assert!(cache_from(bad).is_err() && cache_to(bad).is_err(), "{bad}");
        }
        let image = ("a".to_owned(), NamedContext::Image("b:c".into()));
        assert_eq!(context("a=docker-image://b:c").unwrap(), image);
        assert!(context("a=/no/such").is_err() && context("a").is_err());
        assert_eq!(host("a:10.0.0.1").unwrap(), ("a".into(), "10.0.0.1".into()));
        assert_eq!(host("a=[::1]").unwrap(), ("a".into(), "::1".into()));
        assert!(host("a:host").is_err() && host(":1.2.3.4").is_err());
        assert_eq!(size("64m").unwrap(), 64 << 20);
        assert!(size("m").is_err() && size("0").is_err() && size("é").is_err());
        assert!(allowed(&["security.insecure,network.host".into()]).unwrap().insecure);
        assert!(allowed(&["device".into()]).unwrap().devices.all);
        let some = allowed(&["device=v/c=x".into(), "device=v/c=y,alias=v/c=z".into()]).unwrap().devices;
        assert!(!some.all && some.names["v/c=x"].is_none());
        assert_eq!(some.names["v/c=z"].as_deref(), Some("v/c=y"));
        assert!(allowed(&["device=".into()]).is_err() && allowed(&["device=a,b=c".into()]).is_err());
        assert!(allowed(&["all".into()]).is_err());
    }
}
