#!/usr/bin/env bash
# The OCI command line beside runc and crun: `run` of one bundle with `true`, from the command to its end, in turn.
#
#     bench/containers/oci.sh [--runs 50]
#
# As root. WHARF_OCI names the binary. runc and crun take part when they are installed. Where both versions of cgroups are mounted crun
# refuses: run this by unshare -m sh -c "umount /sys/fs/cgroup/unified; bench/containers/oci.sh" there.
set -euo pipefail
cd "$(dirname "$0")/../.."

wharf=${WHARF_OCI:-${CARGO_TARGET_DIR:-target}/release/wharf-oci}
runs=50
[ "${1:-}" = --runs ] && runs=$2
[ "$(id -u)" = 0 ] || { echo "containers need root: sudo $0" >&2; exit 1; }
[ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release -p wharf-runtime, or name one by WHARF_OCI" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
# Where each keeps its containers' state: in memory, as they do by default.
state=$(mktemp -d /run/wharf-bench.XXXXXX)
trap 'rm -rf "$dir" "$state"' EXIT
mkdir -p "$dir/rootfs/bin"
cp "$(command -v busybox)" "$dir/rootfs/bin/busybox"
ln -s busybox "$dir/rootfs/bin/true"
"$wharf" spec --bundle "$dir"
# Versions of crun that are still common refuse a specification of 1.1 and later by its number.
sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"\/bin\/true"/; s/"ociVersion": "[0-9.]*"/"ociVersion": "1.0.2"/; s#"cgroupsPath": ""#"cgroupsPath": "/wharf-bench"#' "$dir/config.json"

commands=()
for runtime in "wharf-oci=$wharf" "runc=$(command -v runc || true)" "crun=$(command -v crun || true)"; do
    name=${runtime%%=*} path=${runtime#*=}
    if [ -n "$path" ] && "$path" --root "$state/$name" run --bundle "$dir" "bench-$name" >/dev/null 2>"$dir/error"; then
        commands+=("$name=$path --root $state/$name run --bundle $dir bench-$name")
    elif [ -n "$path" ]; then
        echo "$name does not run here: $(tail -1 "$dir/error")" >&2
    fi
done
echo "run of a bundle, $runs runs each in turn, on $(nproc) processors"
python3 bench/measure.py --runs "$runs" "${commands[@]}"
