#!/usr/bin/env python3
"""The Kubernetes API of wharf beside kube-apiserver on etcd: the same load on each, in turn.

    bench/api/compare.py [--wharf target/release/wharf] [--rounds 3] [--objects 10000] [--watchers 1000]

KUBE_APISERVER and ETCD name the peers' programs; without the first, wharf is measured alone. Both keep what they
acknowledge on disk. wharf is the whole platform, with its node, network, router and control loops; the peer is the
API server and its store alone. What is measured: creates of small ConfigMaps by 16 clients, lists of all of them,
one create to the last of many watchers, memory (proportional) with all objects, and process start to /readyz with
all of them stored.
"""
import argparse, json, os, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from measure import family
from platform import Platform, proportional  # noqa: E402  (bench/platform.py)


class Wharf:
    name = "wharf"

    def __init__(self, program):
        self.program, self.folder = program, tempfile.mkdtemp(prefix="wharf-bench-")

    def start(self):
        self.platform = Platform(self.program, self.folder)
        self.ready = self.platform.ready
        api = self.platform.api
        files = [f"{self.folder}/{name}.pem" for name in
                 ("certificate-authority-data", "client-certificate-data", "client-key-data")]
        self.load = ["--server", f"https://{api.address}", "--ca", files[0], "--cert", files[1], "--key", files[2]]

    def pids(self):
        return [self.platform.process.pid]

    def stop(self):
        self.platform.stop()

    def remove(self):
        Platform(self.program, self.folder, "--drain").stop()
        shutil.rmtree(self.folder)


class Upstream:
    name = "kube-apiserver + etcd"

    def __init__(self, apiserver, etcd):
        self.apiserver, self.etcd = apiserver, etcd
        self.folder = tempfile.mkdtemp(prefix="kube-bench-")
        self.certificates()

    def certificates(self):
        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, stderr=subprocess.DEVNULL)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        openssl("req", "-x509", *curve, "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.pem")
        for name, subject, extra in (("server", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1"),
                                     ("admin", "/O=system:masters/CN=admin", "keyUsage=digitalSignature")):
            openssl("req", "-x509", *curve, "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", subject, "-addext", extra,
                    "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("genrsa", "-out", "accounts.key", "2048")

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": open(f"{self.folder}/log", "ab")}
        ports = free(3)
        url = lambda port: f"http://127.0.0.1:{port}"
        self.store = subprocess.Popen([
            self.etcd, "--data-dir", f"{self.folder}/etcd", "--listen-client-urls", url(ports[0]),
            "--advertise-client-urls", url(ports[0]), "--listen-peer-urls", url(ports[1]),
            "--initial-advertise-peer-urls", url(ports[1]), "--initial-cluster", f"default={url(ports[1])}"], **quiet)
        until(lambda: socket.create_connection(("127.0.0.1", ports[0]), 1).close(), self.store)
        began = time.monotonic()
        self.server = subprocess.Popen([
            self.apiserver, f"--etcd-servers={url(ports[0])}", f"--secure-port={ports[2]}", "--bind-address=127.0.0.1",
            "--tls-cert-file=server.pem", "--tls-private-key-file=server.key", "--client-ca-file=ca.pem",
            "--authorization-mode=RBAC", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key"], cwd=self.folder, **quiet)
        tls = ssl.create_default_context(cafile=f"{self.folder}/ca.pem")
        tls.load_cert_chain(f"{self.folder}/admin.pem", f"{self.folder}/admin.key")

        def answers():
            import http.client
            connection = http.client.HTTPSConnection("127.0.0.1", ports[2], context=tls, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status != 200:
                raise OSError("not ready")
        until(answers, self.server)
        self.ready = time.monotonic() - began
        self.load = ["--server", f"https://127.0.0.1:{ports[2]}", "--ca", f"{self.folder}/ca.pem",
                     "--cert", f"{self.folder}/admin.pem", "--key", f"{self.folder}/admin.key"]

    def pids(self):
        return [self.server.pid, self.store.pid]

    def stop(self):
        for process in (self.server, self.store):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(70)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def remove(self):
        shutil.rmtree(self.folder)


def free(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(ask, process, limit=60):
    deadline = time.monotonic() + limit
    while True:
        try:
            return ask()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.args[0]} did not become ready")
            time.sleep(0.002)


def load(program, peer, prefix, *work):
    """What the load measured, with the processor time the server spent on it."""
    before = family(peer.pids())
    ran = subprocess.run([program, *peer.load, "--prefix", prefix, *map(str, work)], stdout=subprocess.PIPE, check=True)
    after = family(peer.pids())
    result = json.loads(ran.stdout)
    result["cpu"] = sum(after.values()) - sum(before.values())
    return result


def median(results, *path):
    def at(result):
        for name in path:
            result = result[name]
        return result
    return statistics.median(at(result) for result in results)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--wharf", default=os.environ.get("WHARF", "target/release/wharf"))
    options.add_argument("--load", default="target/release/wharf-bench-api-load")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--objects", type=int, default=10_000)
    options.add_argument("--watchers", type=int, default=1000)
    options.add_argument("--starts", type=int, default=5)
    given = options.parse_args()
    peers, each = [Wharf(given.wharf)], given.objects // given.rounds
    apiserver, etcd = os.environ.get("KUBE_APISERVER"), os.environ.get("ETCD", shutil.which("etcd"))
    if apiserver and etcd:
        peers.append(Upstream(apiserver, etcd))
    else:
        print("KUBE_APISERVER is not set, or there is no etcd: wharf alone", file=sys.stderr)
    found = {peer.name: {} for peer in peers}
    try:
        for peer in peers:
            peer.start()
            load(given.load, peer, "warm", "create", "--count", 500)
        for kind in ("create", "list", "watch"):
            for number in range(given.rounds):
                for peer in peers:
                    work = {"create": ("--count", each), "list": ("--count", 20),
                            "watch": ("--watchers", given.watchers, "--count", 50)}[kind]
                    found[peer.name].setdefault(kind, []).append(load(given.load, peer, f"{kind}-{number}", kind, *work))
                    print(f"{kind} {peer.name}: {found[peer.name][kind][-1]}", file=sys.stderr, flush=True)
        for peer in peers:
            time.sleep(10)
            found[peer.name]["memory"] = sum(proportional(pid) for pid in family(peer.pids())) / 1024
            peer.stop()
        for peer in peers:
            times = []
            for _ in range(given.starts):
                peer.start()
                times.append(peer.ready * 1e3)
                peer.stop()
            found[peer.name]["ready"] = statistics.median(times)
    finally:
        for peer in peers:
            try:
                peer.stop()
            except (AttributeError, OSError):
                pass
            peer.remove()
    rows = {
        f"processor time of a create, {given.objects} by 16 clients (ms)":
            lambda f: median(f["create"], "cpu") / each * 1e3,
        "create p50 (ms)": lambda f: median(f["create"], "p50"),
        "create p99 (ms)": lambda f: median(f["create"], "p99"),
        "creates a second": lambda f: each / median(f["create"], "seconds"),
        f"list of {given.objects} and more, p50 (ms)": lambda f: median(f["list"], "p50"),
        f"create to each of {given.watchers} watchers, p50 (ms)": lambda f: median(f["watch"], "each", "p50"),
        f"create to each of {given.watchers} watchers, p99 (ms)": lambda f: median(f["watch"], "each", "p99"),
        f"memory with {given.objects} objects (MB)": lambda f: f["memory"],
        "process start to /readyz (ms)": lambda f: f["ready"],
    }
    for title, row in rows.items():
        values = [row(found[peer.name]) for peer in peers]
        cells = "   ".join(f"{peer.name} {value:.2f}" for peer, value in zip(peers, values))
        ratio = f"   {values[1] / values[0]:.1f}×" if len(values) > 1 and values[0] else ""
        print(f"{title}: {cells}{ratio}", flush=True)


if __name__ == "__main__":
    main()
