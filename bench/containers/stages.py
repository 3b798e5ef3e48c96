#!/usr/bin/env python3
"""Where the time of a container's start goes: `wharf run --rm IMAGE true` from the command to its end, by the births, programs and ends of
its processes as the kernel tells them.

    bench/containers/stages.py [--runs 50] [--network none|bridge]

As root, with perf (apt-get install linux-perf). WHARF names the binary. Each line is a median of wall time; beside it what of that somebody
else had the processors is not known, so measure on a quiet machine.
"""
import argparse, os, re, shutil, statistics, subprocess, sys, tempfile

WHARF = os.environ.get("WHARF", os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/wharf"))
EVENTS = "sched:sched_process_fork,sched:sched_process_exec,sched:sched_process_exit"
STAGES = [
    "command: its program loads, reads the image, writes the description down",
    "shim: fork and exec",
    "shim: loads, makes the namespaces, listens; command: asks for the container; shim: cgroups",
    "container's process: joins cgroups, mounts, devices, root, rights, filter",
    "the program",
    "end: output and exit status written down, cgroups removed, told; command: files removed",
]


def once(command, folder):
    data = os.path.join(folder, "perf.data")
    # The trace is cut short when the command has ended: a shim may be there a moment longer.
    subprocess.run(["perf", "record", "-q", "-a", "-e", EVENTS, "-o", data, "--", *command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    text = subprocess.run(["perf", "script", "-i", data, "-F", "pid,tid,time,event,trace"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    own, at = set(), {}
    for line in text.splitlines():
        found = re.match(r"\s*(\d+)/(\d+)\s+([\d.]+):\s+sched:sched_process_(\w+):\s+(.*)", line)
        if not found:
            continue
        pid, tid, time, kind, rest = int(found[1]), int(found[2]), float(found[3]) * 1e3, found[4], found[5]
        program = re.search(r"filename=(\S+)", rest)
        if kind == "exec" and program and program[1] == command[0]:
            own, at = {pid}, {"command": time, "pid": pid}
        elif kind == "fork" and pid in own:
            child = int(re.search(r"child_pid=(\d+)", rest)[1])
            own.add(child)
            at[f"fork {child}"] = time
        elif kind == "exec" and pid in own and program[1].startswith("/proc/self/fd/"):
            at.setdefault("shim", time)
            at.setdefault("shim pid", pid)
        elif kind == "exec" and pid in own and program[1] == "/bin/true":
            at.update({"program": time, "program pid": pid})
        elif kind == "exit" and pid == tid and pid == at.get("program pid"):
            at["ended"] = time
        elif kind == "exit" and pid == tid and pid == at.get("pid"):
            at["done"] = time
    times = [at["command"], at[f"fork {at['shim pid']}"], at["shim"], at[f"fork {at['program pid']}"], at["program"], at["ended"], at["done"]]
    return [after - before for before, after in zip(times, times[1:])] + [times[-1] - times[0]]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=50)
    options.add_argument("--network", choices=["none", "bridge"], default="none")
    given = options.parse_args()
    if shutil.which("perf") is None:
        sys.exit("perf is missing: apt-get install linux-perf")
    if not os.access(WHARF, os.X_OK):
        sys.exit(f"there is no {WHARF}: cargo build --release, or name one by WHARF")
    folder = tempfile.mkdtemp(prefix="wharf-bench.", dir="/var/tmp")
    try:
        wharf = [os.path.abspath(WHARF), "--data", f"{folder}/wharf"]
        subprocess.run([*wharf, "image", "pack", "--applets", "base/bench", shutil.which("busybox")], check=True, stdout=subprocess.DEVNULL)
        command = [*wharf, "run", "--rm", "--network", given.network, "base/bench", "/bin/true"]
        for _ in range(3):
            once(command, folder)
        columns = list(zip(*(once(command, folder) for _ in range(given.runs))))
        print(f"{given.runs} runs, network {given.network}, median milliseconds (p10)")
        for name, times in zip([*STAGES, "all"], columns):
            print(f"{statistics.median(times):>8.2f} ({sorted(times)[len(times) // 10]:.2f})  {name}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
