#!/usr/bin/env bash
# Docker and Podman, answering, with the test images in both. Needs root on Debian; what is there already is used.
# Sourced by .ci/run, whose array `started` then gets the ids of the engines started here; run alone, they stay.

engines_state=/run/leasedb-engines
docker_socket=unix:///var/run/docker.sock
podman_socket=unix:///run/podman/podman.sock

engines_install() {
    local missing=() pair
    for pair in dockerd:docker.io podman:podman mmdebstrap:mmdebstrap; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        apt-get update -q
        # with what they recommend: cgroups, keys, and what publishes Podman's ports
        DEBIAN_FRONTEND=noninteractive apt-get install -qy "${missing[@]}" netavark aardvark-dns
    fi
    # a package of its own since Debian 13
    command -v docker >/dev/null || apt-get install -qy --no-install-recommends docker-cli
}

# The engine's log is shown when it does not answer: engines_wait NAME PROBE...
engines_wait() {
    local name=$1 limit=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$limit" ]; then
            echo "$name does not answer after a minute; its log ends:" >&2
            tail -n 30 "$engines_state/$name.log" >&2
            return 1
        fi
        sleep 0.2
    done
}

engines_docker() {
    docker --host "$docker_socket" version >/dev/null 2>&1 && return
    # a machine without systemd may not have them mounted
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ] && ! mountpoint -q /sys/fs/cgroup/devices; then
        cgroupfs-mount
    fi
    setsid dockerd >"$engines_state/docker.log" 2>&1 &
    started+=("-$!")
    engines_wait docker docker --host "$docker_socket" version
}

# Podman gives its containers the highest limits it knows of, which root without CAP_SYS_RESOURCE may not.
engines_podman_limits() {
    local files processes
    files=$(ulimit -Hn) processes=$(ulimit -Hu)
    if [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; then files=65536; fi
    if [ "$processes" = unlimited ] || [ "$processes" -gt 32768 ]; then processes=32768; fi
    printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' \
        "$files" "$files" "$processes" "$processes"
}

engines_podman() {
    podman --remote --url "$podman_socket" version >/dev/null 2>&1 && return
    mkdir -p "$(dirname "${podman_socket#unix://}")"
    engines_podman_limits >"$engines_state/containers.conf"
    CONTAINERS_CONF=$engines_state/containers.conf setsid podman system service --time=0 "$podman_socket" \
        >"$engines_state/podman.log" 2>&1 &
    started+=("-$!")
    engines_wait podman podman --remote --url "$podman_socket" version
}

engines_images() {
    local here
    here=$(dirname "${BASH_SOURCE[0]}")
    "$here/../tests/image/build.sh" docker podman
    # from Debian's unstable branch, which may be broken today; its tests then skip
    "$here/../tests/image/build.sh" --postgres 18 docker podman || echo "no test image of Postgres 18"
}

[ -n "${started+x}" ] || started=()
mkdir -p "$engines_state"
engines_install
engines_docker
engines_podman
engines_images
