"""What programs written with the Python client for Kubernetes do, against the cluster of KUBECONFIG."""
import base64, json, threading, time

import websocket
from kubernetes import client, config, dynamic, stream, utils, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
HERE = "python"


def refused(status, call, *given, **named):
    try:
        call(*given, **named)
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"{call.__name__} was not refused")


def namespaces_and_versions():
    assert client.VersionApi().get_code().major == "1"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=HERE)))
    assert refused(409, core.create_namespace, {"metadata": {"name": HERE}}).reason == "Conflict"
    assert any(group.name == "apps" for group in client.ApisApi().get_api_versions().groups)


def objects():
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"k": "v"}), data={"one": "1"})
    made = core.create_namespaced_config_map(HERE, body)
    assert made.metadata.resource_version and made.metadata.creation_timestamp.tzinfo
    core.patch_namespaced_config_map("a", HERE, {"data": {"two": "2"}})
    core.patch_namespaced_config_map("a", HERE, [{"op": "remove", "path": "/data/one"}])
    read = core.read_namespaced_config_map("a", HERE)
    assert read.data == {"two": "2"}, read
    made.data = {"stale": "x"}
    refused(409, core.replace_namespaced_config_map, "a", HERE, made)
    refused(404, core.read_namespaced_config_map, "none", HERE)
    error = refused(422, core.create_namespaced_config_map, HERE, {"metadata": {"name": "Wrong_Name"}})
    assert "a lowercase RFC 1123 subdomain" in error.body
    dry = core.create_namespaced_config_map(HERE, {"metadata": {"generateName": "dry-"}}, dry_run="All")
    assert dry.metadata.name.startswith("dry-")
    refused(404, core.read_namespaced_config_map, dry.metadata.name, HERE)
    secret = core.create_namespaced_secret(HERE, client.V1Secret(
        metadata=client.V1ObjectMeta(name="s"), string_data={"key": "hidden"}))
    assert base64.b64decode(secret.data["key"]) == b"hidden"


def lists_in_pages_and_watches():
    for number in range(25):
        core.create_namespaced_config_map(HERE, {"metadata": {"name": f"page-{number:02}", "labels": {"page": "yes"}}})
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(HERE, label_selector="page=yes", limit=10, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{number:02}" for number in range(25)], names
    since, seen = page.metadata.resource_version, []

    def change():
        core.patch_namespaced_config_map("page-00", HERE, {"data": {"x": "y"}})
        core.delete_namespaced_config_map("page-01", HERE)
        core.create_namespaced_config_map(HERE, {"metadata": {"name": "page-99", "labels": {"page": "yes"}}})

    threading.Timer(0.1, change).start()
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_config_map, HERE, label_selector="page=yes",
                                resource_version=since, timeout_seconds=60):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            watcher.stop()
    assert seen == [("MODIFIED", "page-00"), ("DELETED", "page-01"), ("ADDED", "page-99")], seen
    core.delete_collection_namespaced_config_map(HERE, label_selector="page=yes")
    assert not core.list_namespaced_config_map(HERE, label_selector="page=yes").items


def until(what, ask, wanted):
    deadline = time.monotonic() + 60
    while True:
        found = ask()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, f"in vain: {what}: {found}"
        time.sleep(0.05)


def opened(path, *protocols):
    """A WebSocket as older programs and browsers open it."""
    own = client.Configuration.get_default_copy()
    tls = {"ca_certs": own.ssl_ca_cert, "certfile": own.cert_file, "keyfile": own.key_file}
    url = own.host.replace("https://", "wss://") + path
    return websocket.create_connection(url, subprotocols=list(protocols) or None, sslopt=tls, timeout=60)


def messages(connection):
    """All until the server ends it."""
    found = []
    while True:
        code, data = connection.recv_data()
        if code == websocket.ABNF.OPCODE_CLOSE:
            return found
        found.append(data)


def older_protocols(pod):
    logs = f"/api/v1/namespaces/{HERE}/pods/{pod}/log"
    assert b"".join(messages(opened(logs))) == b"begun\n"
    assert b"".join(messages(opened(logs, "binary.k8s.io"))) == b"begun\n"
    encoded = opened(logs, "base64.binary.k8s.io")
    assert b"".join(map(base64.b64decode, messages(encoded))) == b"begun\n"
    try:
        opened(logs, "smoke.signals")
        raise AssertionError("smoke.signals are spoken")
    except websocket.WebSocketBadStatusException as error:
        assert error.status_code == 403, error

    run = f"/api/v1/namespaces/{HERE}/pods/{pod}/exec?stdout=1&stderr=1&command=sh&command=-c&command="
    both = messages(opened(run + "echo%20out", "channel.k8s.io"))
    assert both == [b"\x01out\n"], both
    failed = messages(opened(run + "exit%203", "channel.k8s.io"))
    assert failed == [b"\x03command terminated with non-zero exit code: exit status 3"], failed
    coded = messages(opened(run + "echo%20out", "base64.channel.k8s.io"))
    assert coded == [b"1" + base64.b64encode(b"out\n")], coded
    typed = opened(run + "read%20word%3B%20echo%20%24word&stdin=1", "v4.base64.channel.k8s.io")
    typed.send("0" + base64.b64encode(b"through\n").decode())
    said = messages(typed)
    assert said[0] == b"1" + base64.b64encode(b"through\n"), said
    assert json.loads(base64.b64decode(said[1][1:]))["status"] == "Success", said

    watched = opened(f"/api/v1/namespaces/{HERE}/pods?watch=1&fieldSelector=metadata.name={pod}")
    code, event = watched.recv_data()
    event = json.loads(event)
    assert code == websocket.ABNF.OPCODE_TEXT and event["type"] == "ADDED", event
    assert event["object"]["metadata"]["name"] == pod
    watched.close()


def workloads(image):
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "main", "image": image, "command": ["sh", "-c", "echo begun; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]}]}}}}
    utils.create_from_dict(client.ApiClient(), manifest, namespace=HERE)
    until("the Deployment is ready", lambda: apps.read_namespaced_deployment_status("web", HERE),
          lambda found: found.status.ready_replicas == 1)
    pod = core.list_namespaced_pod(HERE, label_selector="app=web").items[0].metadata.name
    assert core.read_namespaced_pod_log(pod, HERE) == "begun\n"
    said = stream.stream(core.connect_get_namespaced_pod_exec, pod, HERE, command=["sh", "-c", "echo out; echo err >&2; exit 3"],
                         stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False)
    said.run_forever(timeout=30)
    assert (said.read_stdout(), said.read_stderr(), said.returncode) == ("out\n", "err\n", 3)
    typed = stream.stream(core.connect_get_namespaced_pod_exec, pod, HERE, command=["cat"], stdin=True, stdout=True,
                          stderr=True, tty=False, _preload_content=False)
    typed.write_stdin("through\n")
    assert typed.readline_stdout(timeout=30) == "through"
    typed.close()
    older_protocols(pod)
    scale = apps.patch_namespaced_deployment_scale("web", HERE, {"spec": {"replicas": 2}})
    assert scale.spec.replicas == 2
    until("it has two pods", lambda: core.list_namespaced_pod(HERE, label_selector="app=web").items, lambda pods: len(pods) == 2)
    job = client.V1Job(metadata=client.V1ObjectMeta(name="once"), spec=client.V1JobSpec(template=client.V1PodTemplateSpec(
        spec=client.V1PodSpec(restart_policy="Never", containers=[client.V1Container(name="main", image=image, command=["true"])]))))
    batch.create_namespaced_job(HERE, job)
    until("the Job is done", lambda: batch.read_namespaced_job("once", HERE), lambda found: found.status.succeeded == 1)


def custom_resources():
    extensions, custom = client.ApiextensionsV1Api(), client.CustomObjectsApi()
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "default": 3}}},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}
    extensions.create_custom_resource_definition({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                               "schema": {"openAPIV3Schema": schema}}]}})
    until("the definition is established", lambda: extensions.read_custom_resource_definition("boats.example.com"),
          lambda found: any(c.type == "Established" and c.status == "True" for c in found.status.conditions or []))
    where = ("example.com", "v1", HERE, "boats")
    made = custom.create_namespaced_custom_object(*where, {"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {}})
    assert made["spec"]["size"] == 3
    error = refused(422, custom.create_namespaced_custom_object, *where,
                    {"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "c"}, "spec": {"size": 0}})
    assert "should be greater than or equal to 1" in error.body, error.body
    custom.patch_namespaced_custom_object_status(*where, "b", {"status": {"ready": True}})
    boats = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="example.com/v1", kind="Boat")
    wanted = {"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"size": 7}}
    try:
        boats.server_side_apply(namespace=HERE, name="b", field_manager="tour", body=wanted)
        raise AssertionError("who creates an object owns its defaults too")
    except dynamic.exceptions.ConflictError as error:
        assert ".spec.size" in error.summary(), error
    applied = boats.server_side_apply(namespace=HERE, name="b", field_manager="tour", force_conflicts=True, body=wanted)
    assert (applied.spec.size, applied.status.ready) == (7, True)
    owners = {entry.manager for entry in boats.get(namespace=HERE, name="b").metadata.managedFields}
    assert "tour" in owners, owners
    extensions.delete_custom_resource_definition("boats.example.com")


def access():
    review = client.AuthorizationV1Api().create_self_subject_access_review({"spec": {"resourceAttributes": {
        "verb": "create", "resource": "pods", "namespace": HERE}}})
    assert review.status.allowed
    core.create_namespaced_service_account(HERE, {"metadata": {"name": "robot"}})
    token = core.create_namespaced_service_account_token("robot", HERE, {"spec": {"audiences": [], "expirationSeconds": 600}})
    found = client.AuthenticationV1Api().create_token_review({"spec": {"token": token.status.token}})
    assert found.status.user.username == f"system:serviceaccount:{HERE}:robot", found
    settings = client.Configuration.get_default_copy()
    settings.cert_file = settings.key_file = None
    settings.api_key = {"authorization": f"Bearer {token.status.token}"}
    robot = client.CoreV1Api(client.ApiClient(settings))
    assert "robot" in refused(403, robot.list_namespaced_pod, HERE).body
    rbac = client.RbacAuthorizationV1Api()
    rbac.create_namespaced_role(HERE, {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
    rbac.create_namespaced_role_binding(HERE, {"metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": HERE}]})
    assert robot.list_namespaced_pod(HERE).items


def main(image):
    namespaces_and_versions()
    objects()
    lists_in_pages_and_watches()
    workloads(image)
    custom_resources()
    access()
    core.delete_namespace(HERE)
    until("the namespace is gone", core.list_namespace, lambda found: HERE not in [n.metadata.name for n in found.items])
    print("toured")


if __name__ == "__main__":
    import sys
    main(sys.argv[1])
