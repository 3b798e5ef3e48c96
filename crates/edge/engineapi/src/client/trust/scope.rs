//! Which rule of a policy is about an image: the scopes of the transport `docker` (containers-policy.json(5)).

use wharf_image::Reference;

use super::identity::Named;

/// The scopes an image belongs to, the most specific first: itself, its repository, each parent path, its
/// registry, the domains above its registry with a wildcard.
///
/// Hosts are compared in lower case, since whoever writes one in capitals reaches the same registry.
pub(super) fn scopes_of(reference: &Reference) -> Vec<String> {
    let host = reference.domain().to_ascii_lowercase();
    let repository = format!("{host}/{}", reference.path());
    let mut scopes = vec![format!("{repository}{}", Named::of(reference).suffix())];
    scopes.extend(repository.rmatch_indices('/').fold(vec![repository.clone()], |mut parents, (at, _)| {
        parents.extend(repository.get(..at).map(str::to_owned));
        parents
    }));
    // A wildcard stands for whole labels before the rest, and has no port.
    let name = host.split(':').next().unwrap_or(&host);
    scopes.extend(name.match_indices('.').filter_map(|(at, _)| Some(format!("*.{}", name.get(at + 1..)?))));
    scopes
}

/// A scope as a policy has it, in the form [`scopes_of`] makes; or what to write, when no image can belong to it.
pub(super) fn check_scope(scope: &str) -> Result<String, String> {
    if let Some(domain) = scope.strip_prefix("*.") {
        let whole = !domain.contains([':', '/', '@', '*']) && is_repository(&format!("host.{domain}/a/b"));
        return whole.then(|| scope.to_ascii_lowercase()).ok_or_else(|| {
            "write a wildcard as '*.example.com': whole labels, neither port nor path behind them".into()
        });
    }
    let last = scope.rsplit('/').next().unwrap_or(scope);
    let of_one_image = scope.contains('@') || (last != scope && last.contains(':'));
    let host = |text: &str| text.split('/').next().unwrap_or(text).to_ascii_lowercase();
    let fit = match of_one_image {
        true => scope
            .parse::<Reference>()
            .is_ok_and(|r| r.to_string() == scope && (r.tag().is_none() || r.digest().is_none())),
        false => is_repository(&format!("{scope}/a/b")),
    };
    match fit {
        true => Ok(format!("{}{}", host(scope), scope.get(host(scope).len()..).unwrap_or_default())),
        false => Err(meant(scope)),
    }
}

/// Whether this text is a registry and a repository of it in full.
fn is_repository(text: &str) -> bool {
    text.parse::<Reference>().is_ok_and(|reference| reference.repository() == text)
}

fn meant(scope: &str) -> String {
    let form = "write HOST[:PORT][/PATH[:TAG or @DIGEST]]";
    match scope.parse::<Reference>() {
        Ok(r) if r.tag().is_some() && r.digest().is_some() => {
            format!("{form}; the digest alone names the image, leave the tag out")
        }
        Ok(reference) => format!("{form}, the registry in full, as '{}'", reference.repository()),
        Err(_) => form.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_scope_comes_first() {
        let hex = "a".repeat(64);
        for (reference, expect) in [
            (
                "nginx",
                "docker.io/library/nginx:latest docker.io/library/nginx docker.io/library docker.io *.io"
                    .to_owned(),
            ),
            (
                "Registry.Example.com:5000/team/a/shop:1",
                "registry.example.com:5000/team/a/shop:1 registry.example.com:5000/team/a/shop \
                 registry.example.com:5000/team/a registry.example.com:5000/team registry.example.com:5000 \
                 *.example.com *.com"
                    .to_owned(),
            ),
            ("localhost/a:x", "localhost/a:x localhost/a localhost".to_owned()),
            // The digest decides what is pulled, so a tag beside it says nothing.
            (&format!("h:1/a:x@sha256:{hex}"), format!("h:1/a@sha256:{hex} h:1/a h:1")),
            ("[::1]:5000/a:1", "[::1]:5000/a:1 [::1]:5000/a [::1]:5000".to_owned()),
        ] {
            assert_eq!(scopes_of(&reference.parse().unwrap()).join(" "), expect, "{reference}");
        }
    }

    #[test]
    fn what_can_be_a_scope_of_an_image_is_one() {
        let hex = "a".repeat(64);
        for good in [
            "docker.io",
            "docker.io/library",
            "docker.io/library/nginx",
            "docker.io/library/nginx:1",
            &format!("h:1/a@sha256:{hex}"),
            "localhost",
            "localhost:5000/a",
            "localhost:5000",
            "*.io",
            "*.a-b.example.com",
            "[::1]:5000",
        ] {
            assert_eq!(check_scope(good).as_deref(), Ok(good));
        }
        assert_eq!(check_scope("H.Example/a:B").as_deref(), Ok("h.example/a:B"));
        assert_eq!(check_scope("*.Example").as_deref(), Ok("*.example"));
        for (bad, hint) in [
            ("busybox", "as 'docker.io/library/busybox'"),
            ("team/shop", "as 'docker.io/team/shop'"),
            ("docker.io/nginx:1", "as 'docker.io/library/nginx'"),
            ("index.docker.io/a", "as 'docker.io/library/a'"),
            ("https://registry.example", "write HOST"),
            ("registry.example/", "write HOST"),
            ("registry.example/Team", "write HOST"),
            ("registry.example/a:", "write HOST"),
            (&format!("h:1/a:x@sha256:{hex}"), "leave the tag out"),
            ("*", "write HOST"),
            ("*.", "wildcard"),
            ("*.example.com/a", "wildcard"),
            ("*.example.com:5000", "wildcard"),
            ("*.*.com", "wildcard"),
            ("example*.com", "write HOST"),
            ("a.*.com", "write HOST"),
        ] {
            let said = check_scope(bad).unwrap_err();
            assert!(said.contains(hint), "{bad}: {said}");
        }
    }

    #[test]
    fn every_scope_of_an_image_can_stand_in_a_policy() {
        for reference in ["nginx", "r.example.com:5000/a/b/c:1", "localhost/a", "127.0.0.1:5000/a:1"] {
            for scope in scopes_of(&reference.parse().unwrap()) {
                assert_eq!(check_scope(&scope).as_ref(), Ok(&scope));
            }
        }
    }
}
