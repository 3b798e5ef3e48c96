#!/usr/bin/env python3
"""Runs commands side by side, in turn, and prints medians of wall time and processor time.

    bench/measure.py [--runs 30] [--warmup 3] [--serve NAME=COMMAND --ready COMMAND] NAME=COMMAND...

Processor time is that of every descendant, also of those that leave their parent: this program is their reaper.
A server is started and stopped here; what it spends during a command of its name is added to that command.
"""
import argparse, ctypes, os, resource, signal, shlex, statistics, subprocess, sys, time

PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")
SETTLED = 5.0  # seconds a command's own helpers get to end


def family(roots):
    """Processes and all they started, with the seconds each has spent and those of its children it has waited for."""
    parents, spent = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(pid)] = int(fields[1])
        spent[int(pid)] = sum(map(int, fields[11:15])) / TICKS
    own = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return {pid: spent.get(pid, 0.0) for pid in own}


class Server:
    def __init__(self, command, ready):
        self.log = open(f"/dev/fd/{sys.stderr.fileno()}", "wb") if os.environ.get("BENCH_DEBUG") else subprocess.DEVNULL
        self.process = subprocess.Popen(shlex.split(command), stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.call(ready, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"{command}: not ready; run with BENCH_DEBUG=1 to see what it says")
            time.sleep(0.1)

    def family(self):
        """The seconds it and all it started have spent."""
        return sum(family([self.process.pid]).values())

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def own_children(servers):
    text = open(f"/proc/self/task/{os.getpid()}/children").read()
    return [int(pid) for pid in text.split() if int(pid) not in servers]


def reap(servers):
    """Collects what the command left behind, so that its time is counted."""
    deadline = time.monotonic() + SETTLED
    while children := own_children(servers):
        for pid in children:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)


def once(name, command, servers):
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    # What is there before, as the shims of containers that run, is not waited for.
    there = set(own_children(set()))
    before = used()
    began = time.monotonic()
    code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - began
    if code != 0:
        raise SystemExit(f"{name}: '{shlex.join(command)}' ended with {code}")
    reap(there | {server.process.pid for server in servers.values()})
    return wall, used() - before


def measure(commands, servers, runs, warmup):
    walls, cpus, served = ({name: [] for name in commands} for _ in range(3))
    for turn in range(warmup + runs):
        for name, command in commands.items():
            server = servers.get(name)
            before = server.family() if server else 0.0
            wall, cpu = once(name, command, servers)
            after = server.family() if server else 0.0
            if turn >= warmup:
                walls[name].append(wall)
                cpus[name].append(cpu)
                served[name].append(after - before)
    return walls, cpus, served


def report(walls, cpus, served):
    print(f"{'':<12}{'wall ms':>10}{'p90':>10}{'cpu ms':>10}")
    for name, wall in walls.items():
        wall = sorted(wall)
        # A server's time is counted in ticks: only its mean says something.
        cpu = statistics.median(cpus[name]) + statistics.mean(served[name])
        p90 = wall[min(len(wall) - 1, int(len(wall) * 0.9))]
        print(f"{name:<12}{statistics.median(wall) * 1e3:>10.1f}{p90 * 1e3:>10.1f}{cpu * 1e3:>10.1f}")
    first = next(iter(walls))
    for name in list(walls)[1:]:
        ratio = statistics.median(walls[name]) / statistics.median(walls[first])
        print(f"{name} takes {ratio:.1f} times as long as {first}")


def pair(text):
    name, _, command = text.partition("=")
    if not command:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=COMMAND")
    return name, command


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=30)
    options.add_argument("--warmup", type=int, default=3)
    options.add_argument("--serve", type=pair, action="append", default=[], metavar="NAME=COMMAND")
    options.add_argument("--ready", action="append", default=[], help="shell command that succeeds once the server answers")
    options.add_argument("--prepare", action="append", default=[], help="shell command to run before the measurement")
    options.add_argument("commands", type=pair, nargs="+", metavar="NAME=COMMAND")
    given = options.parse_args()
    if len(given.serve) != len(given.ready):
        options.error("each --serve needs a --ready")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("stopped before the end"))
    servers = {}
    try:
        for (name, command), ready in zip(given.serve, given.ready):
            servers[name] = Server(command, ready)
        for command in given.prepare:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
        commands = {name: shlex.split(command) for name, command in given.commands}
        report(*measure(commands, servers, given.runs, given.warmup))
    finally:
        for server in servers.values():
            server.stop()


if __name__ == "__main__":
    main()
