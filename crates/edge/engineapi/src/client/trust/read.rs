//! The format of `policy.json` (containers-policy.json(5)), read so that what is not understood is refused.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    identity::{Identity, Named},
    json::{At, Fault, Fields, Node, shown},
    key::Key,
    policy::Requirement,
    scope::check_scope,
};

/// The transports of the manual page. Images of registries are of `docker`; rules of the others never apply here.
const TRANSPORTS: [&str; 11] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
];
const KEY_FIELDS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
/// What a `sigstoreSigned` may ask for that cannot be checked here.
const UNSUPPORTED: [&str; 6] = [
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
];
/// The most requirements of a scope and keys of a requirement: each signature is tried with each of them.
const MAX_EACH: usize = 16;

/// Gives the content of a key file, or says why not.
type ReadKey<'a> = &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>;

/// The rules of a policy.
pub(super) struct Rules {
    pub(super) default: Vec<Requirement>,
    /// By scope.
    pub(super) docker: BTreeMap<String, Vec<Requirement>>,
}

pub(super) fn read_policy(bytes: &[u8], read_key: ReadKey<'_>) -> Result<Rules, Fault> {
    let node = Node::parse(bytes)?;
    let policy = node.root().fields(&["default", "transports"])?;
    let default = read_requirements(policy.need("default")?, read_key)?;
    let mut docker = BTreeMap::new();
    if let Some(transports) = policy.get("transports") {
        let transports = transports.fields(&TRANSPORTS)?;
        if let Some(scopes) = transports.get("docker") {
            docker = read_scopes(scopes, read_key)?;
        }
    }
    Ok(Rules { default, docker })
}

fn read_scopes(scopes: &At<'_>, read_key: ReadKey<'_>) -> Result<BTreeMap<String, Vec<Requirement>>, Fault> {
    let mut rules = BTreeMap::new();
    for (scope, at) in scopes.members()? {
        let scope = match scope {
            "" => String::new(),
            scope => check_scope(scope).map_err(|hint| {
                at.fault(format!("no image can belong to the scope '{}'", shown(scope)), hint)
            })?,
        };
        let requirements = read_requirements(&at, read_key)?;
        if rules.insert(scope, requirements).is_some() {
            return Err(at.fault("is the scope of another rule in other letters", "keep one of the two"));
        }
    }
    Ok(rules)
}

fn read_requirements(at: &At<'_>, read_key: ReadKey<'_>) -> Result<Vec<Requirement>, Fault> {
    let list = bounded(at)?;
    list.iter().map(|requirement| read_requirement(requirement, read_key)).collect()
}

/// A list that has an entry, and not too many.
fn bounded<'a>(at: &At<'a>) -> Result<Vec<At<'a>>, Fault> {
    let list = at.list()?;
    match list.len() {
        0 => Err(at.fault("is empty", "say what is required; {\"type\": \"reject\"} refuses all")),
        n if n > MAX_EACH => Err(at.fault(format!("has {n} entries, more than {MAX_EACH}"), "write fewer")),
        _ => Ok(list),
    }
}

fn read_requirement(at: &At<'_>, read_key: ReadKey<'_>) -> Result<Requirement, Fault> {
    match at.kind()? {
        "insecureAcceptAnything" => at.fields(&["type"]).map(|_| Requirement::AcceptAnything),
        "reject" => at.fields(&["type"]).map(|_| Requirement::Reject),
        "sigstoreSigned" => read_signed(at, read_key),
        "signedBy" => Err(at.fault(
            "asks for GPG signatures (signedBy), which are not supported",
            "sign with cosign and write {\"type\": \"sigstoreSigned\", \"keyPath\": …}, or {\"type\": \"reject\"}",
        )),
        other => {
            let known = ["insecureAcceptAnything", "reject", "sigstoreSigned"];
            let hint = match wharf_base::closest(other, known) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("the types known are {}", known.join(", ")),
            };
            Err(at.fault(format!("has the unknown type '{}'", shown(other)), hint))
        }
    }
}

fn read_signed(at: &At<'_>, read_key: ReadKey<'_>) -> Result<Requirement, Fault> {
    let known = [&["type", "signedIdentity"][..], &KEY_FIELDS, &UNSUPPORTED].concat();
    let fields = at.fields(&known)?;
    if let Some((name, at)) = UNSUPPORTED.iter().find_map(|name| Some((name, fields.get(name)?))) {
        return Err(at.fault(
            format!("'{name}' is not supported"),
            "let the policy verify by a key: keyPath, keyPaths, keyData or keyDatas alone",
        ));
    }
    let identity = match fields.get("signedIdentity") {
        Some(at) => read_identity(at)?,
        None => Identity::RepoDigestOrExact,
    };
    Ok(Requirement::Signed { keys: read_keys(at, &fields, read_key)?, identity })
}

fn read_keys(at: &At<'_>, fields: &Fields<'_>, read_key: ReadKey<'_>) -> Result<Vec<Key>, Fault> {
    let given: Vec<_> = KEY_FIELDS.iter().filter_map(|name| Some((*name, fields.get(name)?))).collect();
    let [(name, value)] = given.as_slice() else {
        let problem = format!("has {} of keyPath, keyPaths, keyData, keyDatas", given.len());
        return Err(at.fault(problem, "write exactly one of them"));
    };
    let values = if name.ends_with('s') { bounded(value)? } else { vec![(*value).clone()] };
    values.iter().map(|value| one_key(value, name.starts_with("keyPath"), read_key)).collect()
}

fn one_key(at: &At<'_>, is_path: bool, read_key: ReadKey<'_>) -> Result<Key, Fault> {
    let text = at.text()?;
    let (source, pem) = if is_path {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(at.fault(format!("'{}' is not an absolute path", shown(text)), "begin it with '/'"));
        }
        let pem = read_key(path).map_err(|problem| {
            let problem = format!("cannot read the key {}: {problem}", shown(text));
            at.fault(problem, "put the public key there, or correct the path")
        })?;
        (text.to_owned(), pem)
    } else {
        // As Go decodes it: line breaks do not count.
        let pem = STANDARD.decode(text.replace(['\r', '\n'], "")).map_err(|_| {
            at.fault("is not base64", "write the text of the key file as `base64 -w0 FILE` prints it")
        })?;
        (at.place().to_owned(), pem)
    };
    let named =
        |fault: Fault| Fault::new(format!("the key {} {}", shown(&source), fault.problem), fault.hint);
    Key::parse(source.clone(), &pem).map_err(|fault| named(fault).at(at.place()))
}

fn read_identity(at: &At<'_>) -> Result<Identity, Fault> {
    let alone = |identity| at.fields(&["type"]).map(|_| identity);
    match at.kind()? {
        "matchExact" => alone(Identity::Exact),
        "matchRepoDigestOrExact" => alone(Identity::RepoDigestOrExact),
        "matchRepository" => alone(Identity::Repository),
        "exactReference" => {
            let named = named(at, "dockerReference")?;
            match named.is_name_only() {
                true => Err(at.fault("has a dockerReference without tag and digest", "add ':TAG'")),
                false => Ok(Identity::ExactReference(named)),
            }
        }
        "exactRepository" => {
            let named = named(at, "dockerRepository")?;
            match named.is_name_only() {
                true => Ok(Identity::ExactRepository(named)),
                false => Err(at.fault("has a dockerRepository with a tag or digest", "leave it out")),
            }
        }
        "remapIdentity" => {
            let fields = at.fields(&["type", "prefix", "signedPrefix"])?;
            let prefix = |name| prefix(fields.need(name)?);
            Ok(Identity::Remap { prefix: prefix("prefix")?, signed_prefix: prefix("signedPrefix")? })
        }
        other => Err(at.fault(
            format!("has the unknown type '{}'", shown(other)),
            "the types are matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository, remapIdentity",
        )),
    }
}

fn named(at: &At<'_>, field: &str) -> Result<Named, Fault> {
    let fields = at.fields(&["type", field])?;
    let text = fields.text(field)?;
    Named::parse(text).ok_or_else(|| {
        fields.fault(
            field,
            format!("'{}' is not an image's name", shown(text)),
            "write HOST[:PORT]/NAME[:TAG]",
        )
    })
}

/// A registry, or a path of one, in full.
fn prefix(at: &At<'_>) -> Result<String, Fault> {
    let text = at.text()?;
    let whole = format!("{text}/a/b");
    match whole.parse::<wharf_image::Reference>().is_ok_and(|r| r.repository() == whole) {
        true => Ok(text.to_owned()),
        false => Err(at.fault(
            format!("'{}' is not a registry or a path of one", shown(text)),
            "write HOST[:PORT][/PATH] in full, as 'docker.io/library', without tag",
        )),
    }
}
