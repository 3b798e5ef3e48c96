#!/usr/bin/env bash
# Warm start of a container: from the command to its end, `true` in the same image, run and removed.
#
#     bench/containers/start.sh [--runs 30] [--network none|host|bridge] [--at-once 1]
#
# With --at-once it is that many, started together, from the first command to the last end.
# As root. WHARF names the binary. docker (its daemon runs here, on a data folder of its own) and podman take part
# when they are installed: apt-get install -y docker.io podman
set -euo pipefail
cd "$(dirname "$0")/../.."

wharf=${WHARF:-${CARGO_TARGET_DIR:-target}/release/wharf}
runs=30 network=none at_once=1
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 ;;
        --network) network=$2 ;;
        --at-once) at_once=$2 ;;
        *) echo "unknown option '$1'; see the head of $0" >&2; exit 2 ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || { echo "containers need root: sudo $0" >&2; exit 1; }
[ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release, or name one by WHARF" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
. bench/peers.sh
cleanup() {
    trap - EXIT
    # What a measurement that was cut short left behind.
    for id in $("$wharf" --data "$dir/wharf" ps -aq 2>/dev/null); do
        "$wharf" --data "$dir/wharf" rm -f "$id" >/dev/null 2>&1 || true
    done
    remove_peers
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -x /usr/bin/busybox ] || [ -x /bin/busybox ]; then
    "$wharf" --data "$dir/wharf" image pack --applets base/bench "$(command -v busybox)" >/dev/null
else
    "$wharf" --data "$dir/wharf" image pack base/bench sh true >/dev/null
fi
"$wharf" --data "$dir/wharf" image save -o "$dir/image.tar" base/bench

together=
if [ "$at_once" -gt 1 ]; then
    seq "$at_once" >"$dir/each"
    together="xargs -a $dir/each -P $at_once -I {} "
fi
harness=(python3 bench/measure.py --runs "$runs" --warmup "$((at_once > 1 ? 1 : 3))")
commands=("wharf=$together$wharf --data $dir/wharf run --rm --network $network base/bench /bin/true")

peers "$network"
if [ -n "${docker:-}" ]; then
    harness+=(--serve "docker=$docker_serve" --ready "$docker_ready" --prepare "${docker[*]} load -i $dir/image.tar")
    commands+=("docker=$together${docker[*]} run --rm --network $network base/bench /bin/true")
fi
if [ -n "${podman:-}" ] && "${podman[@]}" load -qi "$dir/image.tar" >/dev/null; then
    commands+=("podman=$together${podman[*]} run --rm --network $network ${podman_limits[*]} base/bench /bin/true")
fi

echo "start of a container, $at_once at once, image present, network $network, $runs runs each in turn, on $(nproc) processors"
"${harness[@]}" "${commands[@]}"
