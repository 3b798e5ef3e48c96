#!/usr/bin/env bash
# Warm start of a container: from the command to its end, `true` in the same image, run and removed.
#
#     bench/containers/start.sh [--runs 30] [--network none|host|bridge]
#
# As root. WHARF names the binary. docker (its daemon runs here, on a data folder of its own) and podman take part
# when they are installed: apt-get install -y docker.io podman
set -euo pipefail
cd "$(dirname "$0")/../.."

wharf=${WHARF:-${CARGO_TARGET_DIR:-target}/release/wharf}
runs=30 network=none
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 ;;
        --network) network=$2 ;;
        *) echo "unknown option '$1'; see the head of $0" >&2; exit 2 ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || { echo "containers need root: sudo $0" >&2; exit 1; }
[ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release, or name one by WHARF" >&2; exit 1; }

# Groups of processes the peers make and keep; those that were not there are removed at the end.
kept=()
for group in docker libpod_parent; do
    compgen -G "/sys/fs/cgroup/*/$group" >/dev/null || kept+=("$group")
done
dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
cleanup() {
    trap - EXIT
    # What a measurement that was cut short left behind.
    for id in $("$wharf" --data "$dir/wharf" ps -aq 2>/dev/null); do
        "$wharf" --data "$dir/wharf" rm -f "$id" >/dev/null 2>&1 || true
    done
    if [ -e "$dir/podman" ]; then
        "${podman[@]}" rm -af >/dev/null 2>&1 || true
    fi
    # Mounts of the peers' storage drivers.
    awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r mount; do
        umount -l "$mount" 2>/dev/null || true
    done
    for group in "${kept[@]}"; do
        find /sys/fs/cgroup/*/"$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
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

harness=(python3 bench/measure.py --runs "$runs")
commands=("wharf=$wharf --data $dir/wharf run --rm --network $network base/bench /bin/true")

if command -v dockerd >/dev/null && command -v docker >/dev/null; then
    socket=$dir/docker.sock
    mkdir "$dir/docker"
    # No rules in this machine's tables, unless the containers are to have a network.
    tables=(--iptables=false --ip6tables=false --bridge=none)
    [ "$network" = bridge ] && tables=()
    harness+=(--serve "docker=dockerd --host unix://$socket --data-root $dir/docker/data --exec-root $dir/docker/exec --pidfile $dir/docker/pid ${tables[*]}"
        --ready "docker --host unix://$socket version"
        --prepare "docker --host unix://$socket load -i $dir/image.tar")
    commands+=("docker=docker --host unix://$socket run --rm --network $network base/bench /bin/true")
fi
if command -v podman >/dev/null; then
    podman=(podman --root "$dir/podman/root" --runroot "$dir/podman/run" --cgroup-manager cgroupfs)
    # Debian's crun refuses the hybrid layout of cgroups.
    command -v runc >/dev/null && podman+=(--runtime runc)
    mkdir "$dir/podman"
    if "${podman[@]}" load -qi "$dir/image.tar" >/dev/null; then
        # The usual limits are above what a confined root may set.
        commands+=("podman=${podman[*]} run --rm --network $network --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 base/bench /bin/true")
    fi
fi

echo "start of a container, image present, network $network, $runs runs each in turn, on $(nproc) processors"
"${harness[@]}" "${commands[@]}"
