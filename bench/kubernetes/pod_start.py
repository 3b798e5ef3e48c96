#!/usr/bin/env python3
"""Starts pods by kubectl on one or more clusters, and containers of engines, in turn; prints medians until they run.
See pod_start.sh.

    bench/kubernetes/pod_start.py [--runs 20] [--engine NAME=COMMAND…] NAME=KUBECONFIG=IMAGE...
"""
import argparse, json, os, shlex, statistics, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from measure import Server, pair

KUBECTL = os.environ.get("KUBECTL", "kubectl")
WAIT = 60  # seconds a pod may take


class Cluster:
    def __init__(self, text):
        self.name, self.kubeconfig, self.image = text.split("=", 2)
        self.running, self.changed = {}, threading.Condition()
        self.await_ready()
        # One watch for the whole measurement: starting kubectl must not count twice.
        self.watch = subprocess.Popen(self.kubectl("get", "pods", "-w", "-o", "json", "--output-watch-events"),
                                      stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.follow, daemon=True).start()

    def kubectl(self, *words):
        return [KUBECTL, "--kubeconfig", self.kubeconfig, *words]

    def await_ready(self):
        for words in (["wait", "--for=condition=Ready", "node", "--all", f"--timeout={WAIT}s"], ["get", "serviceaccount", "default"]):
            deadline = time.monotonic() + WAIT
            while subprocess.call(self.kubectl(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) != 0:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.name}: 'kubectl {' '.join(words)}' did not succeed within {WAIT} s")
                time.sleep(0.1)

    def follow(self):
        decoder, text = json.JSONDecoder(), ""
        for line in self.watch.stdout:
            text += line
            try:
                event, end = decoder.raw_decode(text.lstrip())
            except ValueError:
                continue
            text = text.lstrip()[end:]
            pod = event["object"]
            if pod.get("status", {}).get("phase") == "Running":
                with self.changed:
                    self.running.setdefault(pod["metadata"]["name"], time.monotonic())
                    self.changed.notify_all()

    def start(self, pod):
        began = time.monotonic()
        subprocess.run(self.kubectl("run", pod, f"--image={self.image}", "--image-pull-policy=IfNotPresent",
                                    "--restart=Never", "--command", "--", "sleep", "600"),
                       check=True, stdout=subprocess.DEVNULL)
        accepted = time.monotonic()
        with self.changed:
            if not self.changed.wait_for(lambda: pod in self.running, WAIT):
                subprocess.call(self.kubectl("describe", "pod", pod))
                raise SystemExit(f"{self.name}: {pod} did not run within {WAIT} s")
        subprocess.run(self.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait"),
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.running[pod] - began, accepted - began

    def stop(self):
        self.watch.terminate()
        self.watch.wait()


class Engine:
    """docker or podman: a container runs when `run -d` returns."""

    def __init__(self, name, command, archive):
        self.name, self.command = name, shlex.split(command)
        self.program = self.command[:self.command.index("run")]
        subprocess.run([*self.program, "load", "-i", archive], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self, container):
        began = time.monotonic()
        subprocess.run([*self.command, "--name", container, "base/bench", "sleep", "600"], check=True, stdout=subprocess.DEVNULL)
        taken = time.monotonic() - began
        subprocess.run([*self.program, "rm", "-f", container], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return taken, taken

    def stop(self):
        pass


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("--serve", type=pair, action="append", default=[], metavar="NAME=COMMAND", help="a daemon of an engine")
    options.add_argument("--ready", action="append", default=[], help="shell command that succeeds once it answers")
    options.add_argument("--engine", type=pair, action="append", default=[], metavar="NAME=COMMAND", help="up to 'run -d'")
    options.add_argument("--archive", help="the image base/bench for engines")
    options.add_argument("clusters", nargs="+", metavar="NAME=KUBECONFIG=IMAGE")
    given = options.parse_args()
    clusters, servers = [], []
    try:
        for text in given.clusters:
            clusters.append(Cluster(text))
        for (_, command), ready in zip(given.serve, given.ready):
            servers.append(Server(command, ready))
        for name, command in given.engine:
            clusters.append(Engine(name, command, given.archive))
        taken = {cluster.name: [] for cluster in clusters}
        for turn in range(given.runs + 1):
            for cluster in clusters:
                both = cluster.start(f"bench-{os.getpid()}-{turn}")
                if turn > 0:  # the first one warms caches up
                    taken[cluster.name].append(both)
    finally:
        for stopped in [*clusters, *servers]:
            stopped.stop()
    print(f"{'':<12}{'to Running':>12}{'p90':>10}{'command':>14}   ms")
    for name, rows in taken.items():
        whole = sorted(row[0] * 1e3 for row in rows)
        own = statistics.median(row[1] * 1e3 for row in rows)
        p90 = whole[min(len(whole) - 1, int(len(whole) * 0.9))]
        print(f"{name:<12}{statistics.median(whole):>12.1f}{p90:>10.1f}{own:>14.1f}")


if __name__ == "__main__":
    main()
