#!/bin/bash
# The first process of its namespaces: prepares a root for systemd, starts the script beside it, becomes systemd.
# Nothing of the machine can be written from here on: systemd knows no unit but ours, and all but FOLDER is read-only.
#   init.sh FOLDER SYSTEMD
set -eu
if [ $$ != 1 ]; then
  echo "init.sh would change this machine: run make nix-service, which gives it namespaces of its own." >&2
  exit 1
fi
at=$1
cd /
mount --make-rprivate /
# Not only --real ones: a container's root is an overlay.
findmnt --types noproc,sysfs,cgroup,cgroup2,devtmpfs,devpts,mqueue --raw --noheadings --output TARGET | while read -r place; do
  [ "$place" = "$at" ] || mount -o remount,bind,ro "$(printf %b "$place")" 2> /dev/null || true
done
if ( : > /etc/xpu-nodes-may-not-write ) 2> /dev/null; then
  echo "The machine's files could not be made read-only." >&2
  exit 1
fi
for place in /run /tmp /var/tmp /var/log /dev/shm; do mount -t tmpfs tmpfs "$place"; done
mount --bind "$at/data" /var/lib
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd
  for controller in devices pids memory; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  done
fi
cp /etc/passwd /run/passwd
cp /etc/group /run/group
echo 'comfyui-xpu:x:993:993::/var/lib/comfyui-xpu:/usr/sbin/nologin' >> /run/passwd
printf 'comfyui-xpu:x:993:\nrender:x:992:\n' >> /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
mount --bind "$at/console" /dev/console
systemd-tmpfiles --create "$at/tmpfiles"
(
  sleep 2
  if "$at/python3" "$at/machine.py" "$at/script" > "$at/status.new" 2>&1; then
    systemd-analyze security --no-pager comfyui-xpu.service 2>&1 | tail -n 1 >> "$at/status.new"
    echo passed >> "$at/status.new"
  else
    systemctl status comfyui-xpu comfyui-xpu-doctor --no-pager >> "$at/status.new" 2>&1 || true
  fi
  mv "$at/status.new" "$at/status"
  kill -9 -1  # all of this namespace but systemd
  kill -s RTMIN+13 1  # which halts at once
) &
export container=lxc SYSTEMD_UNIT_PATH="$at/units"
exec "$2" --system --unit=multi-user.target --log-target=console --show-status=no
