#!/usr/bin/env bash
# A Dockerfile of six steps: built with nothing cached, and again with everything cached.
#
#     bench/containers/build.sh [--runs 10]
#
# As root. WHARF names the binary. docker (the classic builder: its daemon runs here, on a data folder of its own) and
# buildah take part when they are installed: apt-get install -y docker.io buildah runc
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/containers/common.sh
trap cleanup EXIT
trap 'exit 130' INT TERM
begin "$@"
mkdir "$dir/context"
cat >"$dir/context/Dockerfile" <<'EOF'
FROM base/bench
WORKDIR /app
COPY manifest .
RUN while read -r name; do echo "$name" >"installed-$name"; done <manifest
COPY source source
RUN cat source/* >program && wc -c program
CMD ["cat", "/app/program"]
EOF
seq 20 >"$dir/context/manifest"
mkdir "$dir/context/source"
for i in $(seq 50); do seq "$i" 500 >"$dir/context/source/$i"; done

peers none
wharf_build="$wharf --data $dir/wharf build -q -t built"
docker_build="env DOCKER_BUILDKIT=0 ${docker[*]:-} build -q --network none -t built"
# Debian's crun refuses the hybrid layout of cgroups, and the usual limits are above what a confined root may set.
buildah_build="buildah --root $dir/buildah/root --runroot $dir/buildah/run bud -q --runtime runc --cgroup-parent /bench-buildah --layers --network none ${podman_limits[*]:-} -t built"
for cached in "--no-cache" ""; do
    harness=(python3 bench/measure.py --runs "$runs" --warmup 1)
    commands=("wharf=$wharf_build $cached $dir/context")
    if [ -n "${docker:-}" ]; then
        harness+=(--serve "docker=$docker_serve" --ready "$docker_ready" --prepare "${docker[*]} load -i $dir/image.tar")
        commands+=("docker=$docker_build $cached $dir/context")
    fi
    if command -v buildah >/dev/null; then
        mkdir -p "$dir/buildah"
        buildah --root "$dir/buildah/root" --runroot "$dir/buildah/run" pull -q "docker-archive:$dir/image.tar" >/dev/null
        commands+=("buildah=$buildah_build $cached $dir/context")
    fi
    echo "six steps, ${cached:-all cached}, $runs runs each in turn, on $(nproc) processors"
    "${harness[@]}" "${commands[@]}"
done
