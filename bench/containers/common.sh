# What the benchmarks of containers share; sourced. `begin ARGUMENTS` reads --runs (and --megabytes), makes a folder, an
# image in it, and sets $wharf, $runs, $dir.

wharf=${WHARF:-${CARGO_TARGET_DIR:-target}/release/wharf}
# Processes to end.
started=()

begin() {
    runs=${runs_default:-10}
    while [ $# -gt 0 ]; do
        case $1 in
            --runs) runs=$2 ;;
            --megabytes) megabytes=$2 ;;
            *) echo "unknown option '$1'; see the head of $0" >&2; exit 2 ;;
        esac
        shift 2
    done
    [ "$(id -u)" = 0 ] || { echo "containers need root: sudo $0" >&2; exit 1; }
    [ -x "$wharf" ] || { echo "there is no $wharf: cargo build --release, or name one by WHARF" >&2; exit 1; }
    wharf=$(realpath "$wharf")
    dir=$(mktemp -d /var/tmp/wharf-bench.XXXXXX)
    . bench/peers.sh
    if command -v busybox >/dev/null; then
        "$wharf" --data "$dir/wharf" image pack --applets base/bench "$(command -v busybox)" >/dev/null
    else
        "$wharf" --data "$dir/wharf" image pack base/bench sh true sleep cat wc >/dev/null
    fi
    "$wharf" --data "$dir/wharf" image save -o "$dir/image.tar" base/bench
}

cleanup() {
    trap - EXIT
    [ -n "${dir:-}" ] || return 0
    # What a measurement that was cut short left behind.
    for id in $("$wharf" --data "$dir/wharf" ps -aq 2>/dev/null); do
        "$wharf" --data "$dir/wharf" rm -f "$id" >/dev/null 2>&1 || true
    done
    for pid in "${started[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    remove_peers
    find /sys/fs/cgroup/*/bench-buildah -depth -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf "$dir"
}
