"""The SDK for Python: every call that programs make most, with what must come back."""
import io, tarfile, time

import docker

client = docker.from_env()
assert client.ping() and client.info()["OSType"] == "linux"
dockerfile = io.BytesIO(b'FROM base\nCMD ["echo", "built"]\n')
image, log = client.images.build(fileobj=dockerfile, tag="sdk:1", rm=True)
assert image.tags == ["sdk:1"] and any("Successfully tagged" in line.get("stream", "") for line in log)
assert client.containers.run("sdk:1", remove=True) == b"built\n"
pool = docker.types.IPAMPool(subnet="10.211.99.0/24", gateway="10.211.99.254")
network = client.networks.create("sdk", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
volume = client.volumes.create("sdk", labels={"a": "b"})
one = client.containers.run(
    # It does not end by TERM, so that a stop that gives it no time always comes to KILL.
    "base", ["sh", "-c", "trap '' TERM; exec python3 -m http.server 80"], detach=True, name="one", network="sdk", ports={"80/tcp": None},
    volumes={"sdk": {"bind": "/v", "mode": "rw"}}, mem_limit="64m", environment={"A": "1"}, init=True)
one.reload()
assert one.status == "running" and one.ports["80/tcp"][0]["HostPort"].isdigit(), one.attrs
assert one.attrs["NetworkSettings"]["Networks"]["sdk"]["IPAddress"].startswith("10.211.99.")
code, output = one.exec_run("sh -c 'echo $A; exit 3'")
assert (code, output) == (3, b"1\n")
for _ in range(50):
    # What comes together with the head of the answer is lost by this client.
    assert one.exec_run("echo hi").output == b"hi\n"
assert one.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True).output == (b"out\n", b"err\n")
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as archive:
    member = tarfile.TarInfo("f")
    member.size = 2
    archive.addfile(member, io.BytesIO(b"hi"))
assert one.put_archive("/v", packed.getvalue())
chunks, about = one.get_archive("/v/f")
assert about["size"] == 2 and tarfile.open(fileobj=io.BytesIO(b"".join(chunks))).extractfile("f").read() == b"hi"
assert one.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
assert [member.name for member in client.networks.get(network.id).containers] == ["one"]
one.pause()
one.reload()
assert one.status == "paused"
one.unpause()
one.restart(timeout=0)
one.stop(timeout=0)
assert one.wait()["StatusCode"] == 137
one.remove()
network.remove()
volume.remove()
client.images.remove("sdk:1")
since = int(time.time()) - 60
told = {event["Type"] for event in client.events(since=since, until=int(time.time()), decode=True)}
assert {"container", "network", "volume"} <= told, told
