#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Start the engine of one compute host, also right after it was killed.
set -eu
run="${host_run}"
exec_root="${host_exec_root}"

# A killed engine leaves its pid file, and takes a moment to lose the
# containerd that it manages; starting before that fails.
containerd_pid=$$(cat "$$exec_root/containerd/containerd.pid" 2>/dev/null || :)
tries=0
while [ -n "$$containerd_pid" ] && [ -e "/proc/$$containerd_pid" ] \
    && grep -qs containerd "/proc/$$containerd_pid/comm" \
    && [ "$$tries" -lt 50 ]; do
  sleep 0.1
  tries=$$((tries + 1))
done
rm -f "$$run/dockerd.pid"
exec dockerd --config-file "${etc}/docker/${host}.json"
