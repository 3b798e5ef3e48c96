#!/usr/bin/env bash
# `kubectl run` to Running, image present, on a platform of its own.
#
#     bench/kubernetes/pod_start.sh [RUNS]
#
# As root. WHARF names the binary, KUBECTL the kubectl. docker and podman take part when they are installed, with the nearest
# they have: `run -d` until it returns, when the container runs. With KUBECONFIG_PEER the same pods are started in turn on the
# cluster of that kubeconfig too (its image must be there under the name of IMAGE_PEER).
set -euo pipefail
cd "$(dirname "$0")/../.."

wharf=${WHARF:-${CARGO_TARGET_DIR:-target}/release/wharf}
runs=${1:-20}
[ "$(id -u)" = 0 ] || { echo "pods need root: sudo $0" >&2; exit 1; }
[ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release, or name one by WHARF" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
. bench/peers.sh
server=
cleanup() {
    trap - EXIT
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    remove_peers
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$wharf" --data "$dir" image pack base/bench sh sleep >/dev/null
"$wharf" --data "$dir" image save -o "$dir/image.tar" base/bench
"$wharf" --data "$dir" up --ports auto --drain >"$dir/up.log" 2>&1 &
server=$!
for _ in $(seq 300); do
    [ -s "$dir/endpoints.json" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$dir/up.log" >&2; server=; exit 1; }
    sleep 0.1
done

engines=()
peers bridge
if [ -n "${docker:-}" ]; then
    engines+=(--serve "docker=$docker_serve" --ready "$docker_ready" --engine "docker=${docker[*]} run -d")
fi
if [ -n "${podman:-}" ]; then
    engines+=(--engine "podman=${podman[*]} run -d ${podman_limits[*]}")
fi
python3 bench/kubernetes/pod_start.py --runs "$runs" --archive "$dir/image.tar" "${engines[@]}" \
    "wharf=$dir/kubeconfig=base/bench:latest" \
    ${KUBECONFIG_PEER:+"peer=$KUBECONFIG_PEER=${IMAGE_PEER:?names the image on the peer}"}
