//! Bootstrap tokens as bearer tokens, and the signatures they make.
//!
//! Source: Kubernetes' bootstrap token authenticator; detached JSON Web Signatures (RFC 7515, appendix F).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use wharf_base::Timestamp;
use wharf_control::bootstrap_token::{NAMESPACE, PREFIX, Token, split};

use super::{Identity, same_bytes};
use crate::storage::Storage;

/// Who shows a bootstrap token; nothing when it is not the form of one, or nobody's.
pub(crate) fn check(storage: &Storage, text: &str, now: Timestamp) -> Option<Identity> {
    let (id, secret) = split(text)?;
    let entry = storage.get("secrets", &format!("{NAMESPACE}/{PREFIX}{id}"))?;
    let token = Token::read(&entry.object())?;
    if !same_bytes(token.secret.as_bytes(), secret.as_bytes()) {
        tracing::debug!(id, "a bootstrap token was shown with another secret");
        return None;
    }
    match token.groups(now) {
        Ok(groups) => {
            let mut identity = Identity::new(format!("system:bootstrap:{id}"), &[]);
            identity.groups = groups;
            identity.groups.push("system:authenticated".into());
            Some(identity)
        }
        Err(why) => {
            tracing::debug!(id, why, "a bootstrap token was shown that is of no use");
            None
        }
    }
}

/// A detached signature of a text by a bootstrap token (HS256).
pub fn detached_signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let sum = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_others_make() {
        // Upstream's own test has this pair.
        assert_eq!(
            detached_signature("", "joshua", "my voice is my passcode"),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"
        );
    }
}
