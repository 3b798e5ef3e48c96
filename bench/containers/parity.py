#!/usr/bin/env python3
"""The docker CLI against two engines: the same commands in the same order, and what they answer and leave compared.

    bench/containers/parity.py [--only TEXT] [--all] [--engines dockerd,wharf] [--steps FILE]

As root, with docker's daemon installed: apt-get install -y docker.io tini. WHARF names wharf's binary.

The commands are in parity.steps. For each of them exit status, output and errors are compared, once identifiers, times,
addresses and sizes are taken out; what a step that begins with `fields` prints is compared by the fields of its JSON. What
is known and accepted stands in ACCEPTED with its reason; everything else is printed, dockerd's before wharf's, and the exit
status is then 1. `--engines dockerd,dockerd` shows what of that is noise of the steps themselves.

Each engine lives in namespaces of its own (processes, mounts, network), without a way out of this machine: what it leaves
goes with them, and a published port of one does not meet the other's.
"""
import argparse, collections, concurrent.futures, difflib, json, os, re, shutil, signal, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE = "base/bench"
SIGNALS = signal.SIGTERM, signal.SIGINT
LIMIT = 60  # seconds a step may take

# What may differ: where ("SCENARIO: COMMAND"), what (a line of the difference), both regular expressions, and why.
ACCEPTED = [
    ("", r"^\S*\.(DNSNames|EnableIPv4)\b.*: (absent|null) \|", "fields of the API after 1.41"),
    ("", r"^\S*\.(KernelMemory|KernelMemoryTCP|VirtualSize|Container|ContainerConfig\b.*): \S+ \| absent", "fields the API has dropped since 1.41"),
    ("", r"^\S*\.Runtime: ", "each has its own runtime"),
    ("", r"^\S*\.(CgroupnsMode|GraphDriver\.Data\b.*|Data\.(Lower|Merged|Upper|Work)\w*): ", "containers have a cgroup namespace on v1 too; layers lie elsewhere"),
    ("", r"^\S*\.NetworkSettings\.SandboxKey: |^\.SandboxKey: ", "network namespaces are named by a process"),
    ("", r"MinAPIVersion|^out: 1\.12 \| 1\.24$", "1.24 is what newer dockers say"),
    ("--cgroupns host", "", "containers have a cgroup namespace on v1 too"),
    ("--privileged|--cap-add ALL|nofile=9999999", "operation not permitted|^status: 12[56] \\| |^out wharf|docker run --help|^err dockerd: $",
     "runc sets what root may not on a machine without CAP_SYS_RESOURCE; wharf does without"),
    ("--mac-address|volume prune -af", "requires API version|^status: |^out wharf|docker run --help|^err dockerd: $", "the CLI wants a newer API than 20.10's"),
    ("rshared|rslave", "not a shared|^status: |^out wharf|docker run --help|^err dockerd: $", "20.10 looks at the propagation of the source, newer dockers do not"),
    ("exec one nosuch", "^status: 126 \\| 127$", "127 since docker 23"),
    ("docker diff", "^out", "sorted by path"),
    ("swarm init|node ls|service ls|stack ls|secret ls", "swarm", "there is no swarm"),
    ("docker history", r"^out: /bin/sh -c #\(nop\)", "steps are written down as BuildKit does"),
    ("kernel-memory", "^err dockerd: WARNING", "kernel memory is not limited by newer dockers"),
    ("blkio-weight", "^err dockerd: WARNING", "the kernel has the limit under another name"),
]

# Helpers the steps may use. `await` waits for a command to succeed, `inside` runs one in the engine's network, and `tty`
# gives one a terminal.
PRELUDE = r"""
set -o pipefail
await() { local end=$((SECONDS + 20)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || { echo "in vain: $*"; return 99; }; sleep 0.05; done; }
is() { [ "$(docker inspect -f "{{$2}}" "$1" 2>&1)" = "$3" ]; }
said() { docker logs "$1" 2>&1 | grep -q -- "$2"; }
inside() { nsenter -t "$ENGINE" -n "$@"; }
tty() { script -qec "$*" /dev/null; }
"""

# What differs between any two runs, and what stands for it.
TAKEN_OUT = [(re.compile(pattern), instead) for pattern, instead in [
    (r'"time(Nano)?":\d+', '"time":<time>'),
    (r"\x1b\[[0-9;?]*[a-zA-Z]|\x00", ""),
    (r"[0-9a-f]{64}", "<id>"),
    (r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{12}\b", "<id>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d( UTC)?)", "<time>"),
    (r"(Less than a second|About an? \w+|\d+ (second|minute|hour|day|week|month|year)s?) ago", "<ago>"),
    (r"\bUp (Less than a second|About an? \w+|\d+ (second|minute)s?)", "Up <age>"),
    (r"\b(172|10|192)\.\d+\.\d+\.\d+\b", "<ip>"),
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    (r"\b\d+(\.\d+)?(e[+-]\d+)? ?([kKMGT]i?)?B\b", "<size>"),
    (r"\b\d+\.\d+%", "<share>"),
    (r"(:|-> ?\S+:)(3[2-9]|[456]\d)\d\d\d(?=->|$)", r"\1<port>"),
    (r"<folder>/[^\"', ]*", "<folder>/…"),
    (r"failed to create shim task: OCI runtime create failed: runc create failed: (unable to start container process: )?", ""),
    (r"[ \t]{2,}", "  "),
    (r"[ \t]+$", ""),
]]

# Fields of JSON that name this run.
VARYING = re.compile(r"(^|\.)(Pid|StartedAt|FinishedAt|Created|CreatedAt|Id|ID)$")

Answer = collections.namedtuple("Answer", "code out errors")


class Engine:
    """A daemon in namespaces of its own."""

    def __init__(self, name, folder, command, socket):
        self.name, self.folder, self.socket = name, folder, socket
        self.work = f"{folder}/work"
        # Of the daemon: the mounts and the loopback device are those of its namespaces.
        script = f"mount --make-rprivate / && ip link set lo up && exec {command}"
        self.log = open(f"{folder}/log", "wb")
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        self.pid = None

    def await_ready(self):
        deadline = time.monotonic() + 60
        while self.run("docker version", 10).code != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} is not ready:\n{open(f'{self.folder}/log').read()}")
            time.sleep(0.1)
        self.pid = children(self.process.pid)[0]

    def run(self, line, limit=LIMIT):
        os.makedirs(self.work, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "HOME": self.folder, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": f"{self.folder}/config", "DOCKER_CLI_HINTS": "false", "ENGINE": str(self.pid or ""), "LC_ALL": "C",
        }
        process = subprocess.Popen(["bash", "-c", PRELUDE + line], cwd=self.work, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, errors = process.communicate()
            errors += f"\n<no end after {limit} s>".encode()
        text = lambda raw: self.normal(raw.decode(errors="replace"))
        return Answer(process.returncode, text(out), text(errors))

    def normal(self, text):
        """Without what names this engine, or differs between any two runs."""
        text = text.replace(self.work, "<work>").replace(self.socket, "<socket>").replace(self.folder, "<folder>").replace("\r\n", "\n")
        lines = []
        for line in text.splitlines():
            for pattern, instead in TAKEN_OUT:
                line = pattern.sub(instead, line)
            lines.append(line)
        return "\n".join(lines)

    def reset(self):
        """Nothing left of the scenario before but the image."""
        self.run(f"""
            docker unpause $(docker ps -q --filter status=paused)
            docker rm -fv $(docker ps -aq)
            docker network rm $(docker network ls -q --filter type=custom)
            docker volume rm -f $(docker volume ls -q)
            docker rmi $(docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep -v '<none>' | grep -v '^{IMAGE}:latest$')
            docker rmi -f $(docker images -aq --filter dangling=true)
        """, 120)
        shutil.rmtree(self.work, ignore_errors=True)

    def stop(self):
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        # The first process of its namespace takes all others with it.
        self.process.kill()
        self.process.wait()
        self.log.close()


def children(pid):
    return [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]


class Groups:
    """The groups of processes dockerd makes and keeps: those that were not there go at the end."""

    def __init__(self):
        self.before = self.now()

    @staticmethod
    def now():
        root = "/sys/fs/cgroup"
        return {path for path in [f"{root}/docker", *(f"{root}/{name}/docker" for name in os.listdir(root))] if os.path.isdir(path)}

    def remove_new(self):
        for group in self.now() - self.before:
            subprocess.run(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], stderr=subprocess.DEVNULL)


def scenarios(path):
    """The steps by scenario: `== NAME` begins one, `#` a comment; a line that ends with a backslash goes on."""
    found, name = {}, None
    for line in open(path).read().replace("\\\n", "").splitlines():
        if line.startswith("== "):
            name = line[3:].strip()
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def flat(value, at=""):
    """The fields of a JSON text as (path, value)."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from flat(value[key], f"{at}.{key}")
    elif isinstance(value, list) and value:
        # Of these lists the order says nothing: the CLI gives its volumes in no order.
        if at.endswith(("Mounts", "Binds")) or at == "" and isinstance(value[0], dict) and "Destination" in value[0]:
            value = sorted(value, key=lambda item: item.get("Destination", item.get("Target")) if isinstance(item, dict) else item)
        for index, item in enumerate(value):
            yield from flat(item, f"{at}[{index}]")
    else:
        yield at, "<varies>" if value and VARYING.search(at) else json.dumps(value)


def by_field(left, right):
    try:
        fields = [dict(flat(json.loads(answer.out))) for answer in (left, right)]
    except ValueError:
        return None
    absent = "absent"
    return [f"{path}: {fields[0].get(path, absent)} | {fields[1].get(path, absent)}"
            for path in sorted({*fields[0], *fields[1]}) if fields[0].get(path, absent) != fields[1].get(path, absent)]


def differences(left, right, fields):
    """Lines that say what differs: dockerd's before wharf's."""
    said = []
    if left.code != right.code:
        said.append(f"status: {left.code} | {right.code}")
    if fields and (lines := by_field(left, right)) is not None:
        return said + lines
    for stream, one, other in ("out", left.out, right.out), ("err", left.errors, right.errors):
        ones, others = one.splitlines(), other.splitlines()
        for kind, a, b, c, d in difflib.SequenceMatcher(None, ones, others, False).get_opcodes():
            if kind == "replace" and b - a == d - c:
                said += [f"{stream}: {x} | {y}" for x, y in zip(ones[a:b], others[c:d])]
            elif kind != "equal":
                said += [f"{stream} dockerd: {line}" for line in ones[a:b]] + [f"{stream} wharf:   {line}" for line in others[c:d]]
    return said


def reason(scenario, line, difference):
    """Why a difference is accepted, if it is."""
    place = f"{scenario}: {line}"
    return next((why for where, what, why in ACCEPTED if re.search(where, place) and re.search(what, difference)), None)


def compare(engines, found, everything):
    steps = differing = waived = 0
    with concurrent.futures.ThreadPoolExecutor(len(engines)) as workers:
        for name, lines in found.items():
            list(workers.map(Engine.reset, engines))
            for line in lines:
                fields = line.startswith("fields ")
                left, right = workers.map(lambda engine: engine.run(line.removeprefix("fields ")), engines)
                reasons = [(text, reason(name, line, text)) for text in differences(left, right, fields)]
                unknown = [text for text, why in reasons if not why]
                steps, differing, waived = steps + 1, differing + bool(unknown), waived + (bool(reasons) and not unknown)
                shown = [f"{text}  (accepted: {why})" if why else text for text, why in reasons if everything or not why]
                if shown:
                    print(f"\n[{name}] {line}\n" + "\n".join(f"    {text}" for text in shown), flush=True)
    return steps, differing, waived


def engine(name, number, folder, wharf):
    of = f"{folder}/{number}"
    os.makedirs(f"{of}/config")
    if name == "wharf":
        return Engine(name, of, f"{wharf} up --data {of}/data --ports auto --drain", f"{of}/data/docker.sock")
    roots = f"--data-root {of}/data --exec-root {of}/exec --pidfile {of}/pid"
    return Engine(name, of, f"dockerd --host unix://{of}/docker.sock {roots}", f"{of}/docker.sock")


def pack(wharf, folder):
    for words in ["pack", "--applets", IMAGE, shutil.which("busybox")], ["save", "-o", f"{folder}/image.tar", IMAGE]:
        subprocess.run([wharf, "--data", f"{folder}/pack", "image", *words], check=True, capture_output=True)


def run(names, found, wharf, everything):
    groups, engines = Groups(), []
    folder = tempfile.mkdtemp(prefix="wharf-parity.", dir="/var/tmp")
    try:
        pack(wharf, folder)
        for number, name in enumerate(names):
            engines.append(engine(name, number, folder, wharf))
        for each in engines:
            each.await_ready()
            loaded = each.run(f"docker load -i {folder}/image.tar")
            if loaded.code != 0:
                raise SystemExit(f"{each.name}: {loaded.errors}")
        return compare(engines, found, everything)
    finally:
        # A second signal must not leave an engine behind.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for each in engines:
            each.stop()
        groups.remove_new()
        shutil.rmtree(folder)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", default="", metavar="TEXT", help="only scenarios whose names contain it")
    options.add_argument("--all", action="store_true", help="print also what is accepted, and why")
    options.add_argument("--engines", default="dockerd,wharf", metavar="ONE,OTHER", help="dockerd or wharf")
    options.add_argument("--steps", default=f"{HERE}/parity.steps", metavar="FILE")
    given = options.parse_args()
    names = given.engines.split(",")
    if len(names) != 2 or not {*names} <= {"dockerd", "wharf"}:
        options.error(f"--engines {given.engines}: name two of dockerd and wharf, with a comma between them")
    if os.geteuid() != 0:
        raise SystemExit(f"containers need root: sudo {sys.argv[0]}")
    wharf = os.path.abspath(os.environ.get("WHARF") or f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/release/wharf")
    for program in wharf, "dockerd", "docker", "busybox", "script", "nsenter":
        if not shutil.which(program):
            raise SystemExit(f"there is no {program}: see the head of {sys.argv[0]}")
    found = {name: lines for name, lines in scenarios(given.steps).items() if given.only in name}
    if not found:
        raise SystemExit(f"{given.steps} has no scenario with '{given.only}' in its name")
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit("stopped before the end"))
    steps, differing, waived = run(names, found, wharf, given.all)
    print(f"\n{steps} steps: {differing} differ, {waived} more only in ways that are accepted")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
