#!/usr/bin/env python3
"""Starts and removes containers by the thousand beside a running platform, and looks for what they leave behind.

    bench/containers/cycles.py [--cycles 10000] [--jobs 4] [--mode run|docker|both] [--network bridge|none]

Mode `run` is `wharf run --rm IMAGE true`. Mode `docker` makes detached containers over the Docker Engine API, which are started, stopped and
removed. As root; WHARF names the binary. Prints what there was before and after, and ends with 1 when there is more after than before, or a
cycle failed.

What others do on the machine meanwhile is left out as far as names tell it: mounts, processes and files count when the data folder's name is
in them, links and packet rules when the platform's is, control groups when they are empty.
"""
import argparse, concurrent.futures, glob, http.client, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

WHARF = os.environ.get("WHARF", os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/wharf"))
IMAGE = "base/cycles"
WARM_UP = 40
SETTLES = 90.0  # seconds the platform gets to give back what it keeps for whoever comes next
GROWS = ("telemetry",)  # folders of the platform that grow with time, not with containers


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class Platform:
    def __init__(self, folder):
        self.data = os.path.join(folder, "data")
        self.log = open(os.path.join(folder, "log"), "wb")
        self.process = subprocess.Popen([WHARF, "up", "--data", self.data, "--ports", "auto", "--drain"], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not os.path.exists(os.path.join(self.data, "docker.sock")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"the platform is not ready: {read(self.log.name)}")
            time.sleep(0.05)
        self.instance = None

    def wharf(self, *words):
        return subprocess.run([WHARF, "--data", self.data, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def learn_name(self):
        """The short name its links and rules carry: that of the gateway one of its containers has."""
        made = self.wharf("run", "-d", IMAGE, "sleep", "1000")
        if made.returncode != 0:
            raise SystemExit(f"wharf run: {made.stderr}")
        index = self.wharf("exec", made.stdout.strip(), "cat", "/sys/class/net/eth0/iflink").stdout.strip()
        for link in glob.glob("/sys/class/net/wv-*"):
            if read(f"{link}/ifindex").strip() == index:
                self.instance = os.path.basename(link)[3:].split(".")[0]
        self.wharf("rm", "-f", made.stdout.strip())
        if self.instance is None:
            raise SystemExit("the link of a container was not found")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Docker(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def call(self, method, path, body=None):
        self.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text.strip() else None


def run_once(platform, network):
    done = platform.wharf("run", "--rm", "--network", network, IMAGE, "true")
    if done.returncode != 0:
        raise RuntimeError(f"wharf run: {done.returncode} {done.stderr}")


KEPT = threading.local()


def docker_once(platform, network):
    if not hasattr(KEPT, "docker"):
        KEPT.docker = Docker(os.path.join(platform.data, "docker.sock"))
    docker = KEPT.docker
    asked = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}}
    id = docker.call("POST", "/containers/create", asked)["Id"]
    docker.call("POST", f"/containers/{id}/start")
    docker.call("POST", f"/containers/{id}/stop?t=0")
    docker.call("DELETE", f"/containers/{id}")


def cycles(platform, once, network, number, jobs):
    times, failures = [], []

    def cycle(_):
        began = time.monotonic()
        try:
            once(platform, network)
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            failures.append(str(error).strip())
            KEPT.__dict__.clear()
        times.append(time.monotonic() - began)

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done, _ in enumerate(pool.map(cycle, range(number)), 1):
            if done % 1000 == 0:
                print(f"{done} cycles after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return statistics.median(times), failures


def namespaces(processes):
    found = set()
    for pid in processes:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            pass
    return found


def rules(instance):
    """Tables, rules and elements of the platform."""
    if shutil.which("nft") is None:
        return None, None
    text = subprocess.run(["nft", "-j", "list", "ruleset"], stdout=subprocess.PIPE).stdout
    objects = [next(iter(entry.items())) for entry in json.loads(text)["nftables"]]
    own = [(kind, value) for kind, value in objects if instance in (value.get("table") or value.get("name") or "")]
    elements = sum(len(value.get("elem", [])) for _, value in own if isinstance(value, dict))
    return sum(kind == "table" for kind, _ in own), sum(kind != "table" for kind, _ in own) + elements


def empty_cgroups():
    found = 0
    for folder, children, files in os.walk("/sys/fs/cgroup"):
        if re.fullmatch("[0-9a-f]{64}|wharf-.*", os.path.basename(folder)) and not children and not read(f"{folder}/cgroup.procs").strip():
            found += 1
    return found


def count(platform):
    pid = platform.process.pid
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    own = [other for other in numbers if other != pid and platform.data in read(f"/proc/{other}/cmdline")]
    links = [name for name in os.listdir("/sys/class/net") if platform.instance in name]
    tables, entries = rules(platform.instance)
    files = sum(
        len(names) + len(folders)
        for folder, folders, names in os.walk(platform.data)
        if not os.path.relpath(folder, platform.data).split("/")[0] in GROWS
    )
    status = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line)
    return {
        "mounts": sum(platform.data in line for line in read(f"/proc/{pid}/mountinfo").splitlines()),
        "empty control groups": empty_cgroups(),
        "network namespaces": len(namespaces(own + [pid])),
        "links": len(links),
        "packet tables": tables,
        "packet rules and elements": entries,
        "processes beside the platform": len(own),
        "children of the platform": len(read(f"/proc/{pid}/task/{pid}/children").split()),
        "threads of the platform": int(status.get("Threads", 0)),
        "descriptors of the platform": len(os.listdir(f"/proc/{pid}/fd")),
        "files in the data folder": files,
        "memory of the platform, MB": int(status.get("VmRSS", "0 kB").split()[0]) // 1024,
    }


BOUNDLESS = "memory of the platform, MB"  # shown, not judged: allocators keep what they once had
# Threads for blocking work and idle connections come and go by themselves. What leaks grows with the cycles.
SLACK = {"threads of the platform": 8, "descriptors of the platform": 8}


def more(before, after):
    judged = (name for name in before if name != BOUNDLESS and before[name] is not None)
    return [name for name in judged if after[name] > before[name] + SLACK.get(name, 0)]


def settled(platform, before=None):
    """What there is once nothing changes any more, or no more than `before`."""
    deadline, last, since = time.monotonic() + SETTLES, None, time.monotonic()
    while True:
        now = count(platform)
        if last is None or {**now, BOUNDLESS: 0} != {**last, BOUNDLESS: 0}:
            last, since = now, time.monotonic()
        if before is not None and not more(before, now) or before is None and time.monotonic() - since > 15:
            return now
        if time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cycles", type=int, default=10000)
    options.add_argument("--jobs", type=int, default=4)
    options.add_argument("--mode", choices=["run", "docker", "both"], default="both")
    options.add_argument("--network", choices=["bridge", "none"], default="bridge")
    given = options.parse_args()
    if os.geteuid() != 0:
        sys.exit(f"containers need root: sudo {sys.argv[0]}")
    if not os.access(WHARF, os.X_OK):
        sys.exit(f"there is no {WHARF}: cargo build --release, or name one by WHARF")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before the end"))
    modes = {"run": [run_once], "docker": [docker_once], "both": [run_once, docker_once]}[given.mode]
    folder = tempfile.mkdtemp(prefix="wharf-cycles.", dir="/var/tmp")
    left = False
    try:
        platform = Platform(folder)
        try:
            packed = platform.wharf("image", "pack", IMAGE, "sh", "true", "sleep", "cat")
            if packed.returncode != 0:
                sys.exit(packed.stderr)
            platform.learn_name()
            for once in modes:
                cycles(platform, once, given.network, WARM_UP, given.jobs)
            for once in modes:
                name = once.__name__.removesuffix("_once")
                before = settled(platform)
                median, failures = cycles(platform, once, given.network, given.cycles, given.jobs)
                after = settled(platform, before)
                print(f"{given.cycles} cycles of {name}, {given.jobs} at once, median {median * 1e3:.0f} ms")
                print(f"{'':<32}{'before':>10}{'after':>10}")
                for what in before:
                    print(f"{what:<32}{str(before[what] if before[what] is not None else '-'):>10}{str(after[what] if after[what] is not None else '-'):>10}")
                if failures:
                    print(f"failed: {len(failures)} cycles; the first: {failures[0]}")
                    left = True
                for what in more(before, after):
                    print(f"left behind: {what}: {after[what] - before[what]} more")
                    left = True
        finally:
            for id in platform.wharf("ps", "-aq").stdout.split():
                platform.wharf("rm", "-f", id)
            platform.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(left)


if __name__ == "__main__":
    main()
