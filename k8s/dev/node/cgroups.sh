# A cgroup tree of this cluster's own. Sourced by entrypoint.sh.
#
# The node sees the machine's cgroups. A kubelet kills every pod below its root that it does not know, so two of them on
# one machine (a development cluster and a test suite's) would end each other's pods if both used /kubepods.
# shellcheck shell=bash

cgroup_mounts() { # the cgroup v1 hierarchies, one folder each
  find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d ! -name unified
}

# Prints the kubelet's cgroupRoot: / on a machine with cgroup v2, where there can only be one such node.
own_cgroup_root() {
  [ -e /sys/fs/cgroup/cgroup.controllers ] && { echo /; return; }
  # Kept in the container, so that a restart finds its tree again.
  [ -s /etc/kubernetes/cgroup-root ] ||
    echo "/octopus-$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')" > /etc/kubernetes/cgroup-root
  cat /etc/kubernetes/cgroup-root
}

make_cgroup_root() { # root
  local mount
  [ "$1" = / ] && return
  # A process of this container lives in the tree: a tree without any process belonged to a node that was killed.
  sleep infinity &
  local keeper=$!
  for mount in $(cgroup_mounts); do
    mkdir -p "$mount$1/node"
    if [ -e "$mount/cpuset.cpus" ]; then # empty in a new cpuset, and then nothing may enter it
      for part in "$mount$1" "$mount$1/node"; do
        cat "$mount/cpuset.cpus" > "$part/cpuset.cpus"
        cat "$mount/cpuset.mems" > "$part/cpuset.mems"
      done
    fi
    echo "$keeper" > "$mount$1/node/cgroup.procs"
  done
}

remove_cgroup_root() { # root
  local mount
  [ "$1" = / ] && return
  for mount in /sys/fs/cgroup/*; do # "unified" too: runc uses it beside the others
    [ ! -d "$mount$1" ] || find "$mount$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

# Nodes that were killed could not clean up. The minute spares a node that starts right now.
remove_abandoned_cgroups() {
  local tree
  [ -d /sys/fs/cgroup/memory ] || return 0
  find /sys/fs/cgroup/memory -mindepth 1 -maxdepth 1 -name 'octopus-*' -mmin +1 | while read -r tree; do
    [ -n "$(find "$tree" -name cgroup.procs -exec cat {} +)" ] || remove_cgroup_root "/${tree##*/}"
  done
}
