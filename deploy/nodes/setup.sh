#!/bin/bash
# Prepares a node of `ray up`: the shared disk at /mnt/raypref, and this project with its pinned versions in ~/venv. The argument is
# the disk's address. It may run again.
set -euo pipefail
disk=$1
project=$(cd "$(dirname "$0")/../.." && pwd)

# A node that has just booted updates its lists by itself, and apt does not wait for the lock of these.
for _ in {1..30}; do
  sudo apt-get update -q && break
  sleep 10
done
sudo apt-get -o DPkg::Lock::Timeout=300 install -yq nfs-common python3-venv
sudo mkdir -p /mnt/raypref
mountpoint -q /mnt/raypref || sudo mount -t nfs -o hard,noresvport "$disk" /mnt/raypref
sudo install -d -o "$USER" /mnt/raypref/runs /mnt/raypref/huggingface

python3 -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raypref needs Python 3.11 or newer: choose another image")'
[ -d ~/venv ] || python3 -m venv ~/venv
~/venv/bin/pip install --quiet --constraint "$project/constraints.txt" --editable "$project"
