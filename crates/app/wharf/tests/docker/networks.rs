//! Networks people make: who knows and reaches whom.

use std::{io::Read as _, net::TcpStream};

use super::Docker;
use crate::support::{IMAGE, until};

/// Says its name to everybody who connects to port 8080.
const SERVER: &str = "import socket, sys
listener = socket.create_server(('', 8080))
while True:
    peer, _ = listener.accept()
    peer.sendall(sys.argv[1].encode())
    peer.close()";

/// Says who answers, or why nobody does.
const CLIENT: &str = "import socket, sys
try: print(socket.create_connection((sys.argv[1], 8080), timeout=float(sys.argv[2])).recv(99).decode())
except Exception as error: print(type(error).__name__)";

/// The address of a name, asked of 127.0.0.11 over TCP (RFC 1035 §4.2.2).
const OVER_TCP: &str = "import socket, struct, sys
name = b''.join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split('.')) + bytes(1)
query = struct.pack('>6H', 7, 256, 1, 0, 0, 0) + name + struct.pack('>2H', 1, 1)
server = socket.create_connection(('127.0.0.11', 53), timeout=5)
server.sendall(struct.pack('>H', len(query)) + query)
print(socket.inet_ntoa(server.recv(512)[-4:]))";

impl Docker {
    fn serve(&self, name: &str, options: &[&str]) {
        let program = ["python3", "-c", SERVER, name];
        self.said(&[&["run", "-d", "--name", name][..], options, &[IMAGE], &program].concat());
    }

    /// Who answers to a name or address, as the container has it.
    fn asked(&self, container: &str, whom: &str, seconds: &str) -> String {
        self.said(&["exec", container, "python3", "-c", CLIENT, whom, seconds])
    }

    fn address(&self, container: &str, network: &str) -> String {
        let form = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.said(&["inspect", "-f", &form, container])
    }
}

fn answers(docker: &Docker, container: &str, whom: &str, expected: &str) {
    until(&format!("{whom} answers {container}"), || match docker.asked(container, whom, "5") {
        answer if answer == expected => Ok(()),
        other => Err(other),
    });
}

pub(crate) fn names_and_isolation(docker: &Docker) {
    docker.said(&["network", "create", "front"]);
    docker.said(&[
        "network",
        "create",
        "--subnet",
        "10.211.77.0/24",
        "--ip-range",
        "10.211.77.128/25",
        "back",
    ]);
    docker.serve("web", &["--network", "front", "--network-alias", "www", "-p", "127.0.0.1::8080"]);
    docker.serve("db", &["--network", "back", "--ip", "10.211.77.9"]);
    docker.serve("plain", &[]);
    assert_eq!(docker.address("db", "back"), "10.211.77.9");
    docker.serve("client", &["--network", "front"]);
    for name in ["web", "www", "web.front", docker.address("web", "front").as_str()] {
        answers(docker, "client", name, "web");
    }
    for name in ["db", "plain", "nosuch"] {
        assert_eq!(docker.asked("client", name, "5"), "gaierror", "{name} is no name of its network");
    }
    for (network, name) in [("back", "db"), ("bridge", "plain")] {
        let address = docker.address(name, network);
        assert_eq!(docker.asked("client", &address, "0.5"), "TimeoutError", "{name}");
        assert_eq!(docker.asked(name, &docker.address("client", "front"), "0.5"), "TimeoutError", "{name}");
    }

    // By docker's address, over UDP and TCP, and nothing else of the loopback network is to be reached from outside.
    let resolver = docker.said(&["exec", "client", "cat", "/etc/resolv.conf"]);
    assert!(resolver.starts_with("nameserver 127.0.0.11\n"), "{resolver}");
    let asked = docker.said(&["exec", "client", "python3", "-c", OVER_TCP, "web"]);
    assert_eq!(asked, docker.address("web", "front"));
    docker.serve("intruder", &["--network", "front", "--cap-add", "NET_ADMIN"]);
    let web = docker.address("web", "front");
    docker.said(&["exec", "intruder", "ip", "route", "add", "127.0.0.99/32", "via", &web, "table", "local"]);
    assert_eq!(docker.asked("intruder", "127.0.0.99", "0.5"), "TimeoutError");
    docker.said(&["rm", "-f", "intruder"]);

    // Connected while it runs, it is known and reached under its further name, and no more once it is disconnected.
    docker.said(&["network", "connect", "--alias", "late", "back", "client"]);
    assert!(docker.address("client", "back").starts_with("10.211.77.1"), "of the range");
    answers(docker, "client", "db", "db");
    answers(docker, "db", "late", "client");
    answers(docker, "client", "web", "web");
    let hosts = docker.said(&["exec", "client", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&docker.address("client", "back")), "{hosts}");
    assert!(
        docker
            .refused(&["network", "connect", "back", "client"])
            .1
            .contains("already exists in network back")
    );
    docker.said(&["network", "disconnect", "back", "client"]);
    assert_eq!(docker.asked("client", "10.211.77.9", "0.5"), "TimeoutError");
    answers(docker, "client", "web", "web");
    assert!(
        docker
            .refused(&["network", "disconnect", "back", "client"])
            .1
            .contains("is not connected to network back")
    );

    // What goes elsewhere finds its way also when the network it went by is left.
    docker.said(&["network", "connect", "back", "plain"]);
    docker.said(&["network", "disconnect", "back", "plain"]);
    let routes = docker.said(&["exec", "plain", "cat", "/proc/net/route"]);
    assert!(routes.lines().any(|line| line.starts_with("eth0\t00000000\t")), "{routes}");

    // A name that one container alone has for another.
    docker.serve("linked", &["--network", "front", "--link", "web:pal"]);
    answers(docker, "linked", "pal", "web");
    assert_eq!(docker.asked("client", "pal", "5"), "gaierror");
    docker.said(&["rm", "-f", "linked"]);

    // The port, and what a restart keeps.
    docker.said(&["restart", "-t", "0", "web"]);
    let port = docker.said(&["port", "web", "8080"]);
    until("the port answers", || {
        let mut said = String::new();
        let read = TcpStream::connect(&port).and_then(|mut stream| stream.read_to_string(&mut said));
        if said == "web" { Ok(()) } else { Err(format!("{port}: {read:?} {said}")) }
    });
    answers(docker, "client", "web", "web");

    let shown = docker.said(&[
        "network",
        "inspect",
        "back",
        "-f",
        "{{json .IPAM.Config}} {{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}",
    ]);
    assert_eq!(
        shown,
        "[{\"Subnet\":\"10.211.77.0/24\",\"IPRange\":\"10.211.77.128/25\",\"Gateway\":\"10.211.77.1\"}] db 10.211.77.9/24"
    );
    assert!(docker.refused(&["network", "rm", "back"]).1.contains("active endpoints"));
    for (words, said) in [
        (&["create", "--subnet", "10.211.77.64/26", "inside"][..], "Pool overlaps with other one"),
        (&["create", "--subnet", "10.211.78.0/24", "--gateway", "10.211.79.1", "x"], "no matching subnet"),
        (&["create", "--subnet", "10.211.78.1/24", "x"], "invalid"),
        (&["create", "front"], "network with name front already exists"),
        (&["rm", "nosuch"], "not found"),
        (&["rm", "bridge"], "is a pre-defined network"),
    ] {
        let (_, refused) = docker.refused(&[&["network"], words].concat());
        assert!(refused.contains(said), "{words:?}: {refused}");
    }
    let taken = docker.refused(&["run", "--network", "back", "--ip", "10.211.77.9", "--rm", IMAGE, "true"]).1;
    assert!(taken.contains("Address already in use"), "{taken}");
    let taken = docker.refused(&["run", "--network", "back", "--ip", "10.1.1.1", "--rm", IMAGE, "true"]).1;
    assert!(taken.contains("no configured subnet contains IP address 10.1.1.1"), "{taken}");
    docker.said(&["rm", "-f", "web", "db", "plain", "client"]);
    docker.said(&["network", "rm", "front", "back"]);
    assert!(
        !docker.said(&["network", "ls", "-q", "--filter", "type=custom"]).contains(char::is_alphanumeric)
    );
}

pub(crate) fn no_way_out(docker: &Docker) {
    docker.said(&["network", "create", "--internal", "closed"]);
    docker.said(&["network", "create", "open"]);
    docker.serve("inner", &["--network", "closed"]);
    docker.serve("outer", &["--network", "open"]);
    docker.serve("proxy", &["--network", "closed"]);
    docker.said(&["network", "connect", "open", "proxy"]);
    answers(docker, "proxy", "inner", "inner");
    answers(docker, "proxy", "outer", "outer");
    answers(docker, "inner", "proxy", "proxy");
    let outer = docker.address("outer", "open");
    assert_eq!(docker.asked("inner", &outer, "0.5"), "OSError", "there is no way");
    assert_eq!(docker.asked("inner", "outer", "5"), "gaierror");
    let route = docker.said(&["exec", "inner", "cat", "/proc/net/route"]);
    assert!(!route.lines().any(|line| line.contains("\t00000000\t") && line.contains("0003")), "{route}");
    docker.said(&["rm", "-f", "inner", "outer", "proxy"]);
    docker.said(&["network", "prune", "-f"]);
    assert_eq!(docker.said(&["network", "ls", "--filter", "type=custom", "-q"]), "");
}

pub(crate) fn over_ipv6(docker: &Docker) {
    docker.said(&["network", "create", "--ipv6", "--subnet", "fd00:211:77::/64", "six"]);
    docker.said(&["network", "create", "--ipv6", "chosen"]);
    let server = SERVER.replace(
        "socket.create_server(('', 8080))",
        "socket.create_server(('::', 8080), family=socket.AF_INET6)",
    );
    let program = ["python3", "-c", &server, "far"];
    docker.said(
        &[
            &["run", "-d", "--name", "far", "--network", "six", "--ip6", "fd00:211:77::9", IMAGE][..],
            &program,
        ]
        .concat(),
    );
    docker.serve("near", &["--network", "six"]);
    docker.serve("away", &["--network", "chosen"]);
    answers(docker, "near", "fd00:211:77::9", "far");
    assert_eq!(docker.asked("away", "fd00:211:77::9", "0.5"), "TimeoutError");
    let code = "import socket; print(socket.getaddrinfo('far', None, socket.AF_INET6)[0][4][0])";
    assert_eq!(docker.said(&["exec", "near", "python3", "-c", code]), "fd00:211:77::9");
    let form = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.IPv6Gateway}}{{end}}";
    assert_eq!(docker.said(&["inspect", "-f", form, "far"]), "fd00:211:77::9/64 fd00:211:77::1");
    assert!(docker.said(&["inspect", "-f", form, "away"]).starts_with("fd"));
    let refused = docker.refused(&["network", "create", "--ipv6", "--subnet", "fd00:211::/32", "wide"]).1;
    assert!(refused.contains("Pool overlaps"), "{refused}");
    docker.said(&["rm", "-f", "far", "near", "away"]);
    docker.said(&["network", "rm", "six", "chosen"]);
}
