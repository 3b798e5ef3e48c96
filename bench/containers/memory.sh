#!/usr/bin/env bash
# Memory an idle container costs beside its own program: that of its shim, which nobody else shares (the sum of Private_* in
# smaps_rollup), and its part of what it shares (Pss).
#
#     bench/containers/memory.sh [--containers 20]
#
# As root. WHARF names the binary. Ends with 1 when the median is above the promised 1.5 MB.
set -euo pipefail
cd "$(dirname "$0")/../.."

wharf=${WHARF:-${CARGO_TARGET_DIR:-target}/release/wharf}
containers=20 promised=1536
if [ "${1:-}" = --containers ]; then containers=$2; fi
[ "$(id -u)" = 0 ] || { echo "containers need root: sudo $0" >&2; exit 1; }
[ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release, or name one by WHARF" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
cleanup() {
    trap - EXIT
    "$wharf" --data "$dir" rm -f $("$wharf" --data "$dir" ps -aq) >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$wharf" --data "$dir" image pack base/bench sh sleep >/dev/null
for ((i = 0; i < containers; i++)); do
    "$wharf" --data "$dir" run -d --network none base/bench sleep 1000000 >/dev/null
done

# A shim gives back what it does not need once nothing has happened for a second.
sleep 2
# In kB, one line a shim: private, proportional, the most it ever had.
for file in "$dir"/containers/*/shim.json; do
    pid=$(grep -o '[0-9]*' "$file")
    peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status")
    awk -v peak="$peak" '/^Private_/ { own += $2 } /^Pss:/ { part = $2 } END { print own, part, peak }' "/proc/$pid/smaps_rollup"
done | python3 -c '
import statistics, sys
rows = [list(map(int, line.split())) for line in sys.stdin]
promised = int(sys.argv[1])
print(f"{len(rows)} idle containers, their shims:")
for name, column in zip(["private", "proportional", "resident, at most"], zip(*rows)):
    print(f"{name:<20}median {statistics.median(column):>7.0f} kB   most {max(column):>7} kB")
sys.exit(statistics.median(rows and [row[0] for row in rows]) > promised)
' "$promised"
