"""testcontainers: containers that come and go with a block, found by mapped ports and by names."""
import urllib.request

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

server = DockerContainer("base").with_command("python3 -u -m http.server 8000").with_exposed_ports(8000)
server = server.waiting_for(LogMessageWaitStrategy("Serving HTTP"))
with Network() as network, server.with_network(network).with_network_aliases("srv") as running:
    at = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(8000)}"
    assert urllib.request.urlopen(at).status == 200
    assert running.exec("echo hi").output == b"hi\n"
    ask = "import urllib.request as u; print('status', u.urlopen('http://srv:8000').status)"
    asking = DockerContainer("base").with_command(["python3", "-c", ask]).with_network(network)
    with asking.waiting_for(LogMessageWaitStrategy("status 200")):
        pass
