use super::*;

fn told(servers: &[Server]) -> Vec<String> {
    let one = |server: &Server| {
        let able: Vec<_> = server.capabilities.iter().map(|able| able.name()).collect();
        let mark = if server.mirror { "mirror" } else { "own" };
        let tls = match (server.skip_verify, server.authorities.as_str(), &server.identity) {
            (false, "", None) => String::new(),
            (skip, authorities, identity) => {
                let who = identity.as_ref().map_or("", |identity| identity.key.as_str());
                format!(" skip={skip} ca={} key={who}", authorities.replace('\n', ";"))
            }
        };
        format!("{mark} {} {} {}{tls}", server.name, server.base, able.join("+"))
    };
    servers.iter().map(one).collect()
}

fn parsed(text: &str, domain: &str) -> std::result::Result<Vec<String>, String> {
    servers(text, domain, &|path| Ok(format!("<{path}>"))).map(|servers| told(&servers))
}

#[test]
fn hosts_are_read_as_containerd_reads_them() {
    for (text, domain, expected) in [
        ("", "docker.io", &["own docker.io https://registry-1.docker.io/v2 pull+resolve+push"][..]),
        ("", "127.0.0.1:5000", &["own 127.0.0.1:5000 http://127.0.0.1:5000/v2 pull+resolve+push"]),
        (
            "server = 'https://127.0.0.1:5000'\nca = '/ca.pem'",
            "127.0.0.1:5000",
            &["own 127.0.0.1:5000 https://127.0.0.1:5000/v2 pull+resolve+push skip=false ca=</ca.pem>; key="],
        ),
        (
            "ca = '/ca.pem'",
            "localhost:5000",
            &["own localhost:5000 https://localhost:5000/v2 pull+resolve+push skip=false ca=</ca.pem>; key="],
        ),
        (
            "[host.'https://registry-1.docker.io']\ncapabilities = ['pull', 'resolve']",
            "docker.io",
            &["own docker.io https://registry-1.docker.io/v2 pull+resolve"],
        ),
        (
            "server = 'https://r.example'\n[host.'https://z.example']\ncapabilities = ['pull']\n[host.'a.example']",
            "r.example",
            &[
                "mirror z.example https://z.example/v2 pull",
                "mirror a.example https://a.example/v2 pull+resolve+push",
                "own r.example https://r.example/v2 pull+resolve+push",
            ],
        ),
        (
            "[host.'https://r.example']\nskip_verify = true\nclient = [['c', 'k']]",
            "r.example",
            &["own r.example https://r.example/v2 pull+resolve+push skip=true ca= key=<k>"],
        ),
        (
            "[host.'http://m.example:80/cache/']\noverride_path = true\nclient = 'both.pem'\n[host.'m.example/x']",
            "r.example",
            &[
                "mirror m.example:80 http://m.example:80/cache pull+resolve+push skip=false ca= key=<both.pem>",
                "mirror m.example https://m.example/x/v2 pull+resolve+push",
                "own r.example https://r.example/v2 pull+resolve+push",
            ],
        ),
    ] {
        assert_eq!(parsed(text, domain).unwrap(), expected, "{text}");
    }
}

#[test]
fn mistakes_are_named() {
    for (text, word) in [
        ("server = 1", "'server' is no text"),
        ("server = 'ftp://x'", "is no address"),
        ("server = 'https://u:p@x'", "credentials do not belong here"),
        ("[host]\nx = 1", "[host.\"x\"]: is no table"),
        ("[host.'https://m']\ncapabilities = ['fly']", "no such capability: 'fly'"),
        ("[host.'https://m']\nskip_verify = 'yes'", "'skip_verify' is neither"),
        ("[host.'https://m']\nca = 1", "'ca' is neither"),
        ("[host.'https://m'.header]\n'a b' = 'x'", "'a b' is no header"),
        ("[host.'https://m']\nclient = [[]]", "'client' is neither"),
        ("x = ", "TOML parse error"),
    ] {
        let error = parsed(text, "r.example").unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn folders_are_found_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["one", "two"].map(|name| dir.path().join(name));
    for folder in ["one/_default", "two/r.example", "one/r.example_5000_", "one/certs.example:443"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let folders = Folders::new([first, second.clone()]);
    let found = |domain: &str| folders.find(domain).map(|path| path.strip_prefix(&dir).unwrap().to_owned());
    assert_eq!(found("r.example:5000").unwrap(), Path::new("one/r.example_5000_"));
    assert_eq!(found("certs.example:443").unwrap(), Path::new("one/certs.example:443"));
    assert_eq!(found("r.example").unwrap(), Path::new("one/_default"));
    assert_eq!(Folders::new([second]).find("other.example"), None);

    let certs = dir.path().join("one/certs.example:443");
    std::fs::write(certs.join("ca.crt"), "A").unwrap();
    std::fs::write(certs.join("me.cert"), "C").unwrap();
    let error = certificates(&certs, "localhost:443").unwrap_err();
    assert!(error.contains("me.cert has no") && error.contains("me.key beside it"), "{error}");
    std::fs::write(certs.join("me.key"), "K").unwrap();
    let server = certificates(&certs, "localhost:443").unwrap();
    assert_eq!(
        told(&[server]),
        ["own localhost:443 https://localhost:443/v2 pull+resolve+push skip=false ca=A; key=K"]
    );
}
