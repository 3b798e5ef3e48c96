#!/usr/bin/env python3
"""Deployment of N replicas to all pods bound, on nodes that exist on paper only.

    bench/schedule.py [--wharf target/release/wharf] [--replicas 500] [--nodes 10] [--runs 3]

Starts a platform of its own for each run and prints one line per run and the median.
"""
import argparse, base64, http.client, json, os, re, shutil, signal, ssl, statistics, subprocess, tempfile, time


class Api:
    def __init__(self, folder):
        text = open(f"{folder}/kubeconfig").read()
        field = lambda name: base64.b64decode(re.search(name + r": (\S+)", text)[1])
        self.address = re.search(r"server: https://(\S+)", text)[1]
        for name in ("certificate-authority-data", "client-certificate-data", "client-key-data"):
            open(f"{folder}/{name}.pem", "wb").write(field(name))
        self.tls = ssl.create_default_context(cafile=f"{folder}/certificate-authority-data.pem")
        self.tls.load_cert_chain(f"{folder}/client-certificate-data.pem", f"{folder}/client-key-data.pem")

    def connection(self):
        host, port = self.address.split(":")
        return http.client.HTTPSConnection(host, int(port), context=self.tls)

    def call(self, method, path, body=None, media="application/json"):
        connection = self.connection()
        connection.request(method, path, body and json.dumps(body), {"Content-Type": media})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data.decode()}")
        return json.loads(data)


def one_run(wharf, replicas, nodes):
    folder = tempfile.mkdtemp(prefix="wharf-bench-")
    process = subprocess.Popen([wharf, "up", "--ports", "auto", "--data", folder], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if "kubeconfig" in line:
                break
        api = Api(folder)
        room = {"cpu": "64", "memory": "64Gi", "pods": str(replicas)}
        for n in range(nodes):
            node = api.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"paper-{n}"}})
            status = {"status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}}
            api.call("PATCH", f"/api/v1/nodes/paper-{n}/status", status, "application/merge-patch+json")
        # The taint of new nodes must be gone.
        while any(n["spec"].get("taints") for n in api.call("GET", "/api/v1/nodes")["items"]):
            time.sleep(0.05)
        start = api.call("GET", "/api/v1/pods")["metadata"]["resourceVersion"]
        watch = api.connection()
        watch.request("GET", f"/api/v1/pods?watch=true&resourceVersion={start}")
        events = watch.getresponse()
        labels = {"app": "web"}
        container = {"name": "main", "image": "shop:1", "resources": {"requests": {"cpu": "100m"}}}
        cpu = cpu_time(process.pid)
        began = time.monotonic()
        api.call("POST", "/apis/apps/v1/namespaces/default/deployments", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}})
        created, bound, all_created = set(), set(), None
        for line in events:
            pod = json.loads(line)["object"]
            created.add(pod["metadata"]["name"])
            if len(created) == replicas and all_created is None:
                all_created = time.monotonic() - began
            if pod["spec"].get("nodeName"):
                bound.add(pod["metadata"]["name"])
            if len(bound) == replicas:
                break
        took = time.monotonic() - began
        used = cpu_time(process.pid) - cpu
        print(f"{replicas} pods created in {all_created:.3f} s, bound in {took:.3f} s: {replicas / took:.0f} pods/s; "
              f"{used:.2f} s of processor time", flush=True)
        return replicas / took
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        shutil.rmtree(folder)


def cpu_time(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--wharf", default="target/release/wharf")
    options.add_argument("--replicas", type=int, default=500)
    options.add_argument("--nodes", type=int, default=10)
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    rates = [one_run(given.wharf, given.replicas, given.nodes) for _ in range(given.runs)]
    print(f"median {statistics.median(rates):.0f} pods/s")
