#!/usr/bin/env bash
# An image of four layers of 64 MB, half of it text: pulled from a registry on the loopback into an empty store,
# and pushed to an empty registry. Both ends are wharf's registry for wharf and for its peers.
#
#     bench/containers/transfer.sh [--runs 5] [--megabytes 64]
#
# As root. WHARF names the binary. skopeo and containerd's ctr take part when they are installed: apt-get install -y skopeo
# containerd. skopeo copies into an OCI layout, which unpacks nothing as wharf-packed does, and into podman's storage, which unpacks like
# the others.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/containers/common.sh
megabytes=64
storage_too() {
    umount "$dir/storage/overlay" 2>/dev/null || true
    cleanup
}
trap storage_too EXIT
trap 'exit 130' INT TERM
runs_default=5
begin "$@"
mkdir "$dir/context"
for layer in 1 2 3 4; do
    {
        head -c "$((megabytes / 2))M" /dev/urandom
        # Text that compresses about as programs do.
        head -c "$((megabytes / 6))M" /dev/urandom | od -An -tx1 -v
    } >"$dir/context/$layer"
done
printf 'FROM scratch\nCOPY 1 /1\nCOPY 2 /2\nCOPY 3 /3\nCOPY 4 /4\n' >"$dir/context/Dockerfile"
"$wharf" --data "$dir/wharf" up --ports auto --role control-plane >"$dir/up.log" 2>&1 &
platform=$!
started+=("$platform")
until [ -e "$dir/wharf/endpoints.json" ]; do sleep 0.05; done
registry=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["registry"].split("//")[1])' "$dir/wharf/endpoints.json")
until curl -fs "http://$registry/v2/" >/dev/null; do sleep 0.05; done
"$wharf" --data "$dir/wharf" build -t "$registry/bench/large" "$dir/context" >/dev/null 2>&1

# Each pulls into an empty store, removed within its own command.
commands=("wharf=sh -c 'rm -rf $dir/to && $wharf --data $dir/to image pull $registry/bench/large'")
commands+=("wharf-packed=sh -c 'rm -rf $dir/packed && $wharf --data $dir/packed image pull --no-unpack $registry/bench/large'")
harness=(python3 bench/measure.py --runs "$runs" --warmup 1)
if command -v skopeo >/dev/null; then
    commands+=("skopeo=sh -c 'rm -rf $dir/oci && skopeo copy -q --src-tls-verify=false docker://$registry/bench/large oci:$dir/oci:x'")
    storage="containers-storage:[overlay@$dir/storage+$dir/storage-run]bench/large:x"
    commands+=("skopeo-storage=sh -c 'umount $dir/storage/overlay 2>/dev/null; rm -rf $dir/storage $dir/storage-run && skopeo copy -q --src-tls-verify=false docker://$registry/bench/large $storage'")
fi
if command -v containerd >/dev/null && command -v ctr >/dev/null; then
    mkdir "$dir/containerd"
    cat >"$dir/containerd/config.toml" <<EOF
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/containerd/sock"
EOF
    ctr="ctr -a $dir/containerd/sock"
    harness+=(--serve "containerd=containerd -c $dir/containerd/config.toml" --ready "$ctr version")
    commands+=("containerd=sh -c '$ctr images rm --sync $registry/bench/large:latest >/dev/null 2>&1; $ctr content prune references >/dev/null 2>&1; $ctr images pull --plain-http $registry/bench/large:latest'")
fi
echo "pull of 4 layers of $megabytes MB, $runs runs each in turn, on $(nproc) processors"
"${harness[@]}" "${commands[@]}"

"$wharf" --data "$dir/other" up --ports auto --role control-plane >"$dir/other.log" 2>&1 &
started+=($!)
until [ -e "$dir/other/endpoints.json" ]; do sleep 0.05; done
target=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["registry"].split("//")[1])' "$dir/other/endpoints.json")
until curl -fs "http://$target/v2/" >/dev/null; do sleep 0.05; done
# The target forgets before each push.
forget="rm -rf $dir/other/images/blobs/sha256 && mkdir -m 700 $dir/other/images/blobs/sha256"
"$wharf" --data "$dir/to" image tag "$registry/bench/large" "$target/bench/large"
commands=("wharf=sh -c '$forget && $wharf --data $dir/to image push $target/bench/large'")
harness=(python3 bench/measure.py --runs "$runs" --warmup 1)
if [ -e "$dir/oci" ]; then
    commands+=("skopeo=sh -c '$forget && skopeo copy -q --dest-tls-verify=false oci:$dir/oci:x docker://$target/bench/large'")
fi
echo "push of 4 layers of $megabytes MB, $runs runs each in turn, on $(nproc) processors"
"${harness[@]}" "${commands[@]}"
