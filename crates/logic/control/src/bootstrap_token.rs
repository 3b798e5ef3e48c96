//! Bootstrap tokens: Secrets that let machines join, which go when their time is over, and sign the ConfigMap by which
//! machines come to know the cluster.
//!
//! Source: Kubernetes' bootstrap tokens (`bootstrap.kubernetes.io/token`), its token cleaner and bootstrap signer.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use wharf_base::Timestamp;

use crate::{
    action::{CONFIG_MAPS, SECRETS, Step},
    meta::{Meta, read},
    namespace_defaults::ConfigMap,
};

/// Type of the Secrets that are tokens.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where tokens are.
pub const NAMESPACE: &str = "kube-system";
/// The name of a token's Secret, before its id.
pub const PREFIX: &str = "bootstrap-token-";
/// Namespace and name of the ConfigMap that is signed.
pub const CLUSTER_INFO: (&str, &str) = ("kube-public", "cluster-info");
/// The key in it that is signed.
const SIGNED: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
/// The group of everybody who shows a token.
const GROUP: &str = "system:bootstrappers";

/// A token as its Secret says it.
#[derive(Clone, Default, PartialEq)]
pub struct Token {
    /// The Secret's metadata.
    pub metadata: Meta,
    /// The public part.
    pub id: String,
    /// The secret part.
    pub secret: String,
    /// When it ends, as it was written; empty for never.
    expiration: String,
    /// Machines may show it to the API.
    authenticates: bool,
    /// It signs [`CLUSTER_INFO`].
    signs: bool,
    extra_groups: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Id and secret of a text of the form of a token, 6 and 16 of `a`–`z` and `0`–`9`.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.split_once('.')?;
    let fits = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

impl Token {
    /// The token a Secret is; nothing when it is of another type, or its name is not of the id it holds.
    pub fn read(secret: &Value) -> Option<Self> {
        if secret["type"] != TYPE {
            return None;
        }
        let metadata: Meta = read(&secret["metadata"]).ok()?;
        let text = |key: &str| {
            let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        let id = text("token-id");
        if metadata.namespace != NAMESPACE || metadata.name.strip_prefix(PREFIX) != Some(&id) {
            return None;
        }
        Some(Self {
            secret: text("token-secret"),
            expiration: text("expiration"),
            authenticates: text("usage-bootstrap-authentication") == "true",
            signs: text("usage-bootstrap-signing") == "true",
            extra_groups: text("auth-extra-groups"),
            id,
            metadata,
        })
    }

    /// How long it lasts; nothing when it never ends. A time nobody can read has passed.
    fn left(&self, now: Timestamp) -> Option<std::time::Duration> {
        if self.expiration.is_empty() {
            return None;
        }
        Some(self.expiration.parse::<Timestamp>().map_or(std::time::Duration::ZERO, |ends| ends.since(now)))
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// The groups of who shows it now, sorted.
    ///
    /// # Errors
    /// Why nobody can show it.
    pub fn groups(&self, now: Timestamp) -> Result<Vec<String>, String> {
        if self.metadata.deleting() {
            return Err("is deleted and awaiting removal".into());
        }
        if self.is_over(now) {
            return Err("has expired".into());
        }
        if !self.authenticates {
            return Err("not marked usage-bootstrap-authentication=true".into());
        }
        let mut groups = vec![GROUP.to_owned()];
        for group in self.extra_groups.split(',').filter(|_| !self.extra_groups.is_empty()) {
            if !is_group(group) {
                return Err(format!("has invalid value for key auth-extra-groups: {group:?}"));
            }
            groups.push(group.to_owned());
        }
        groups.sort();
        groups.dedup();
        Ok(groups)
    }
}

/// `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`
fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

/// Decides whether a token goes. `secret` is of the type of tokens.
pub fn clean(secret: &Value, now: Timestamp) -> Step {
    let Ok(metadata) = read::<Meta>(&secret["metadata"]) else { return Step::idle() };
    let decoded = secret["data"]["expiration"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let expiration = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let token = Token { expiration, metadata, ..Token::default() };
    match token.left(now) {
        _ if secret["type"] != TYPE || token.metadata.deleting() => Step::idle(),
        None => Step::idle(),
        Some(left) if left.is_zero() => Step::of(vec![token.metadata.delete(SECRETS, None)]),
        Some(left) => Step { actions: Vec::new(), requeue_after: Some(left) },
    }
}

/// What signing sees.
pub struct View<'a> {
    /// The ConfigMap [`CLUSTER_INFO`].
    pub cluster_info: &'a ConfigMap,
    /// All tokens.
    pub tokens: &'a [Token],
    /// A detached signature of a text by a token's id and secret.
    pub sign: &'a dyn Fn(&str, &str, &str) -> String,
}

/// Decides about the signatures.
pub fn sign(view: &View<'_>, now: Timestamp) -> Step {
    let data = &view.cluster_info.data;
    let Some(content) = data.get(SIGNED) else { return Step::idle() };
    let usable =
        view.tokens.iter().filter(|token| token.signs && !token.secret.is_empty() && !token.is_over(now));
    let wanted: BTreeMap<String, String> = usable
        .map(|token| (format!("{SIGNATURE}{}", token.id), (view.sign)(content, &token.id, &token.secret)))
        .collect();
    let gone = data.keys().filter(|key| key.starts_with(SIGNATURE) && !wanted.contains_key(*key));
    let mut patch: BTreeMap<&str, Value> = gone.map(|key| (key.as_str(), Value::Null)).collect();
    patch.extend(
        wanted
            .iter()
            .filter(|(key, sum)| data.get(*key) != Some(sum))
            .map(|(key, sum)| (key.as_str(), json!(sum))),
    );
    let mut step = Step::idle();
    if !patch.is_empty() {
        step.actions.push(view.cluster_info.metadata.locked_patch(CONFIG_MAPS, json!({"data": patch})));
    }
    // A signature goes with its token, also where that is not deleted at once.
    for left in view.tokens.iter().filter_map(|token| token.left(now)).filter(|left| !left.is_zero()) {
        step.requeue(left);
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;

    fn removes(action: &Action) -> bool {
        matches!(action, Action::Delete { .. })
    }

    fn secret(data: &[(&str, &str)]) -> Value {
        let data: serde_json::Map<String, Value> =
            data.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into())).collect();
        json!({"type": TYPE, "data": data, "metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE}})
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const ID: [(&str, &str); 2] = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef")];
    const USE: (&str, &str) = ("usage-bootstrap-authentication", "true");

    #[test]
    fn tokens_have_one_form() {
        for (text, fits) in [
            ("abcdef.0123456789abcdef", true),
            ("abcdef.0123456789abcde", false),
            ("abcdeF.0123456789abcdef", false),
            ("abcdef-0123456789abcdef", false),
            ("abcdef.0123456789abcdef.", false),
            ("abcde.0123456789abcdef0", false),
            ("", false),
        ] {
            assert_eq!(split(text).is_some(), fits, "{text}");
        }
    }

    #[test]
    fn groups_are_of_tokens_in_use() {
        let now = at("2030-01-01T00:00:00Z");
        let check = |more: &[(&str, &str)], expect: Result<&[&str], &str>| {
            let token = Token::read(&secret(&[&ID, more].concat())).unwrap();
            let groups = token.groups(now);
            match expect {
                Ok(expect) => assert_eq!(groups.unwrap(), expect, "{more:?}"),
                Err(why) => assert!(groups.unwrap_err().contains(why), "{more:?}"),
            }
        };
        check(&[USE], Ok(&["system:bootstrappers"]));
        check(&[], Err("not marked"));
        check(&[USE, ("expiration", "2029-12-31T23:59:59Z")], Err("expired"));
        check(&[USE, ("expiration", "tomorrow")], Err("expired"));
        check(&[USE, ("expiration", "2030-01-01T01:00:00+01:00")], Err("expired"));
        check(
            &[USE, ("expiration", "2030-01-01T00:00:01Z"), ("auth-extra-groups", "system:bootstrappers:a:b")],
            Ok(&["system:bootstrappers", "system:bootstrappers:a:b"]),
        );
        check(&[USE, ("auth-extra-groups", "system:masters")], Err("auth-extra-groups"));
        check(&[USE, ("auth-extra-groups", "system:bootstrappers:a,")], Err("auth-extra-groups"));
    }

    #[test]
    fn secrets_of_other_forms_are_no_tokens() {
        let mut other = secret(&ID);
        other["type"] = "Opaque".into();
        assert!(Token::read(&other).is_none());
        assert!(Token::read(&secret(&[("token-id", "other1")])).is_none(), "the name is of another id");
        let mut elsewhere = secret(&ID);
        elsewhere["metadata"]["namespace"] = "default".into();
        assert!(Token::read(&elsewhere).is_none());
    }

    #[test]
    fn tokens_go_in_time() {
        let now = at("2030-01-01T00:00:00Z");
        let step = |expiration: &str| clean(&secret(&[("expiration", expiration)]), now);
        assert!(step("2029-01-01T00:00:00Z").actions.iter().all(removes));
        assert_eq!(step("2029-01-01T00:00:00Z").actions.len(), 1);
        assert_eq!(step("whenever").actions.len(), 1);
        let later = step("2030-01-01T00:01:00Z");
        assert_eq!((later.actions.len(), later.requeue_after), (0, Some(std::time::Duration::from_secs(60))));
        assert_eq!(clean(&secret(&[]), now), Step::idle());
    }

    #[test]
    fn signatures_follow_the_tokens() {
        let now = at("2030-01-01T00:00:00Z");
        let sum = |content: &str, id: &str, secret: &str| format!("{id}:{}:{}", content.len(), secret.len());
        let signing =
            Token::read(&secret(&[&ID[..], &[("usage-bootstrap-signing", "true")]].concat())).unwrap();
        let check = |data: Value, tokens: &[Token], expect: Option<Value>| {
            let cluster_info: ConfigMap = read(&json!({"data": data})).unwrap();
            let step = sign(&View { cluster_info: &cluster_info, tokens, sign: &sum }, now);
            let patch = step.actions.first().map(|action| match action {
                Action::Patch { body, .. } => body["data"].clone(),
                other => panic!("{other:?}"),
            });
            assert_eq!(patch, expect, "{data}");
        };
        let tokens = std::slice::from_ref(&signing);
        check(json!({}), tokens, None);
        check(json!({"kubeconfig": "x"}), tokens, Some(json!({"jws-kubeconfig-abcdef": "abcdef:1:16"})));
        check(json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": "abcdef:1:16"}), tokens, None);
        check(
            json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": "abcdef:1:16"}),
            &[],
            Some(json!({"jws-kubeconfig-abcdef": null})),
        );
        let over = Token { expiration: "2029-01-01T00:00:00Z".into(), ..signing.clone() };
        check(
            json!({"kubeconfig": "x", "jws-kubeconfig-abcdef": "y"}),
            &[over],
            Some(json!({"jws-kubeconfig-abcdef": null})),
        );
    }
}
