#!/usr/bin/env python3
"""Process start to ready, and memory at rest, of a platform of its own: empty, then with many objects.

    bench/platform.py [--wharf target/release/wharf] [--objects 10000] [--rest 20] [--runs 5]

As root the node, network and router are part of it. Prints one line per measurement.
"""
import argparse, concurrent.futures, json, os, shutil, signal, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from measure import family
from schedule import Api


class Platform:
    def __init__(self, wharf, folder, *flags):
        # Addresses of an earlier start must not be taken for new ones.
        for name in ("endpoints.json", "kubeconfig"):
            if os.path.exists(f"{folder}/{name}"):
                os.remove(f"{folder}/{name}")
        began = time.monotonic()
        self.process = subprocess.Popen([wharf, "--data", folder, "up", "--ports", "auto", *flags], stdout=subprocess.DEVNULL)
        try:
            self.api = self.answering(folder, began + 60)
        except BaseException:
            self.stop()
            raise
        self.ready = time.monotonic() - began

    def answering(self, folder, deadline):
        while time.monotonic() < deadline and self.process.poll() is None:
            if os.path.exists(f"{folder}/endpoints.json"):
                try:
                    api = Api(folder)
                    connection = api.connection()
                    connection.request("GET", "/readyz")
                    if connection.getresponse().status == 200:
                        return api
                except OSError:
                    pass
            time.sleep(0.002)
        raise SystemExit("wharf up did not become ready")

    def memory(self):
        """Proportional resident size in MB, of the process and all it started."""
        return sum(proportional(pid) for pid in family([self.process.pid])) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def proportional(pid):
    try:
        lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(title, wharf, folder, runs, rest):
    times = []
    for _ in range(runs):
        platform = Platform(wharf, folder)
        times.append(platform.ready * 1e3)
        platform.stop()
    platform = Platform(wharf, folder)
    time.sleep(rest)
    memory = platform.memory()
    platform.stop()
    print(f"{title}: ready after {statistics.median(times):.0f} ms (median of {runs}), {memory:.1f} MB after {rest:.0f} s of rest", flush=True)


def fill(wharf, folder, objects):
    platform = Platform(wharf, folder)
    data = {"text": "x" * 300}

    def create(numbers):
        connection = platform.api.connection()
        for number in numbers:
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"bench-{number}"}, "data": data}
            connection.request("POST", "/api/v1/namespaces/default/configmaps", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 201:
                raise SystemExit(f"create: {answer.status} {text.decode()}")

    try:
        with concurrent.futures.ThreadPoolExecutor(16) as workers:
            list(workers.map(create, [range(start, objects, 16) for start in range(16)]))
    finally:
        platform.stop()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--wharf", default="target/release/wharf")
    options.add_argument("--objects", type=int, default=10_000)
    options.add_argument("--rest", type=float, default=20)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    folder = tempfile.mkdtemp(prefix="wharf-bench-")
    try:
        measure("empty", given.wharf, folder, given.runs, given.rest)
        fill(given.wharf, folder, given.objects)
        measure(f"{given.objects} objects", given.wharf, folder, given.runs, given.rest)
    finally:
        # A platform that is stopped leaves its network to the pods; one that is drained does not.
        Platform(given.wharf, folder, "--drain").stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
