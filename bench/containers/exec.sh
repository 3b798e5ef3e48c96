#!/usr/bin/env bash
# `exec … true` in a container that runs: from the command to its end.
#
#     bench/containers/exec.sh [--runs 30]
#
# As root. WHARF names the binary. docker and podman take part as in start.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/containers/common.sh
trap cleanup EXIT
trap 'exit 130' INT TERM
begin "$@"
"$wharf" --data "$dir/wharf" run -d --name held --network none base/bench sleep 100000 >/dev/null
harness=(python3 bench/measure.py --runs "$runs")
commands=("wharf=$wharf --data $dir/wharf exec held /bin/true")
peers none
if [ -n "${docker:-}" ]; then
    harness+=(--serve "docker=$docker_serve" --ready "$docker_ready" --prepare "${docker[*]} load -i $dir/image.tar"
        --prepare "${docker[*]} run -d --rm --name held --network none base/bench sleep 100000")
    commands+=("docker=${docker[*]} exec held /bin/true")
fi
if [ -n "${podman:-}" ] && "${podman[@]}" load -qi "$dir/image.tar" >/dev/null; then
    "${podman[@]}" run -d --rm --name held --network none "${podman_limits[@]}" base/bench sleep 100000 >/dev/null
    commands+=("podman=${podman[*]} exec held /bin/true")
fi
echo "exec in a running container, $runs runs each in turn, on $(nproc) processors"
"${harness[@]}" "${commands[@]}"
