//! Which objects are encrypted, and by which keys.
//!
//! Source: `apiserver.config.k8s.io/v1` EncryptionConfiguration.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};

use crate::configuration::{ConfigError, Part, document};

/// The providers of some resources, by their order; the first writes.
#[derive(Debug)]
pub(super) struct Rule {
    resources: Vec<String>,
    pub providers: Vec<Provider>,
}

#[derive(Debug)]
pub(super) enum Provider {
    /// As they are.
    Identity,
    /// AES in Galois/counter mode.
    AesGcm(Box<Key>),
}

pub(super) struct Key {
    pub name: String,
    pub key: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Rule {
    /// Whether a rule is about a resource (`secrets`, `widgets.demo.io`).
    pub(super) fn covers(&self, qualified: &str) -> bool {
        self.resources.iter().any(|pattern| covers(pattern, qualified))
    }
}

fn covers(pattern: &str, qualified: &str) -> bool {
    let group = qualified.split_once('.').map_or("", |(_, group)| group);
    match pattern.strip_prefix("*.") {
        Some("*") => true,
        Some(wanted) => wanted == group,
        None => pattern == qualified,
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Rule>, ConfigError> {
    let value = document(text, "EncryptionConfiguration", &["apiserver.config.k8s.io/v1"])?;
    let whole = Part::whole(&value);
    whole.fields(&["apiVersion", "kind", "resources"])?;
    let parts = whole.items("resources")?;
    if parts.is_empty() {
        return Err(whole.error("resources", "there must be one at least"));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for part in parts {
        let rule = rule(&part)?;
        let is_masked = |own: &&String| {
            let mut earlier = rules.iter().flat_map(|rule| &rule.resources);
            earlier.any(|pattern| pattern == *own || covers(pattern, own))
        };
        let masked = rule.resources.iter().find(is_masked);
        if let Some(masked) = masked {
            return Err(
                part.error("resources", format!("{masked:?} is covered by an earlier entry, which counts"))
            );
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(part: &Part<'_>) -> Result<Rule, ConfigError> {
    part.fields(&["resources", "providers"])?;
    let resources = part.texts("resources")?;
    if resources.is_empty() {
        return Err(part.error("resources", "there must be one at least"));
    }
    let wrong = |name: &&String| {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        name.is_empty() || *name == "*" || (rest != "*" && rest.contains('*')) || name.contains('/')
    };
    if let Some(name) = resources.iter().find(wrong) {
        let why =
            format!("{name:?} is none of the forms secrets, widgets.example.com, *.example.com, *. and *.*");
        return Err(part.error("resources", why));
    }
    let mut providers = Vec::new();
    for provider in part.items("providers")? {
        self::provider(&provider, &mut providers)?;
    }
    match providers.is_empty() {
        true => Err(part.error("providers", "there must be one at least")),
        false => Ok(Rule { resources, providers }),
    }
}

fn provider(part: &Part<'_>, all: &mut Vec<Provider>) -> Result<(), ConfigError> {
    for other in ["aescbc", "secretbox", "kms"] {
        if part.part(other).is_there() {
            return Err(part.error(other, "objects are not encrypted by this here; aesgcm does the same"));
        }
    }
    part.fields(&["identity", "aesgcm"])?;
    let (identity, aes) = (part.part("identity"), part.part("aesgcm"));
    match (identity.is_there(), aes.is_there()) {
        (true, false) => {
            identity.fields(&[])?;
            all.push(Provider::Identity);
            Ok(())
        }
        (false, true) => {
            aes.fields(&["keys"])?;
            let keys = aes.items("keys")?;
            if keys.is_empty() {
                return Err(aes.error("keys", "there must be one at least"));
            }
            for key in keys {
                all.push(Provider::AesGcm(Box::new(self::key(&key)?)));
            }
            Ok(())
        }
        _ => Err(ConfigError::new(&part.at, "must be one of identity and aesgcm")),
    }
}

fn key(part: &Part<'_>) -> Result<Key, ConfigError> {
    part.fields(&["name", "secret"])?;
    let name = part.text("name")?;
    if name.is_empty() || name.contains(':') {
        return Err(part.error("name", "is required, and holds no colon"));
    }
    // Never what it says: it is a secret.
    let bytes = STANDARD.decode(part.text("secret")?).map_err(|_| part.error("secret", "is not base64"))?;
    let algorithm = match bytes.len() {
        16 => &AES_128_GCM,
        32 => &AES_256_GCM,
        n => return Err(part.error("secret", format!("has {n} bytes; keys have 16 or 32 here"))),
    };
    let key = UnboundKey::new(algorithm, &bytes).map_err(|_| part.error("secret", "is no key"))?;
    Ok(Key { name: name.to_owned(), key: LessSafeKey::new(key) })
}
