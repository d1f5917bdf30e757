#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports for a number of virtual machines, with nbd-cli and jq: a disk for each that has none,
# none for those that are gone. Can be run again and again, also after it was interrupted.
#
#     orchestrate.sh SIZE MACHINE...        for example: orchestrate.sh 20G web1 web2 db1
#
# NBD_RUNNER_HOST or NBD_RUNNER_DIR say where the daemon is, as for nbd-cli.
set -euo pipefail

prefix=vm/      # the exports that are ours to delete

[ $# -ge 2 ] || { echo "usage: orchestrate.sh SIZE MACHINE..." >&2; exit 2; }
size=$1
shift

say() { echo "orchestrate: $*" >&2; }

# An answer has the members that docs/nbd-cli-json.md names; a failure has a status, and a
# sentence on stderr.
have() { nbd-cli --json export list | jq -r --arg p "$prefix" '.exports[].name | select(startswith($p))'; }

existing=$(have)
jobs=()
failed=0
for machine; do
    name=$prefix$machine
    if grep -qxF -- "$name" <<<"$existing"; then
        say "$name is there"
        continue
    fi
    # All of them at once: "nowait" answers with the job.
    answer=$(nbd-cli --json file create "vm-$machine.img" size "$size" name "$name" \
        description "disk of $machine" nowait) || { failed=1; continue; }
    jobs+=("$(jq -r .job.id <<<"$answer")")
done

for job in "${jobs[@]}"; do
    answer=$(nbd-cli --json job wait "$job") || { failed=1; continue; }
    say "$(jq -r '"\(.job.export) is made"' <<<"$answer")"
done

while read -r name; do
    [ -n "$name" ] || continue
    machine=${name#"$prefix"}
    [[ " $* " != *" $machine "* ]] || continue
    # A disk in use is refused, and stays until its machine has let go of it.
    target=$(nbd-cli --json export show "$name" | jq -r .export.target)
    if nbd-cli --json file delete "$target" >/dev/null; then
        say "$name is deleted"
    else
        failed=1
    fi
done <<<"$existing"

# What a hypervisor is given.
nbd-cli --json export list | jq -r --arg p "$prefix" '
    .exports[] | select(.name | startswith($p)) | [.name, .state, .size_bytes] | @tsv'
exit $failed
