# docker and podman as peers, each on a data folder of its own below $dir; sourced. docker's daemon is for
# measure.Server: its commands are in `docker_serve` and `docker_ready`. `peers NETWORK` sets up what is installed.

# Groups of processes the peers make and keep; those that were not there are removed at the end.
kept=()
for group in docker libpod_parent; do
    compgen -G "/sys/fs/cgroup/*/$group" >/dev/null || kept+=("$group")
done

peers() {
    local network=$1
    if command -v dockerd >/dev/null && command -v docker >/dev/null; then
        local socket=$dir/docker.sock
        mkdir "$dir/docker"
        # No rules in this machine's tables, unless the containers are to have a network.
        local tables=(--iptables=false --ip6tables=false --bridge=none)
        [ "$network" = bridge ] && tables=()
        docker=(docker --host "unix://$socket")
        docker_serve="dockerd --host unix://$socket --data-root $dir/docker/data --exec-root $dir/docker/exec --pidfile $dir/docker/pid ${tables[*]}"
        docker_ready="${docker[*]} version"
    fi
    if command -v podman >/dev/null; then
        podman=(podman --root "$dir/podman/root" --runroot "$dir/podman/run" --cgroup-manager cgroupfs)
        # Debian's crun refuses the hybrid layout of cgroups.
        command -v runc >/dev/null && podman+=(--runtime runc)
        # The usual limits are above what a confined root may set.
        podman_limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
        mkdir "$dir/podman"
    fi
}

remove_peers() {
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
}
