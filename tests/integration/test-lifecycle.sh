#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports by RPC: created, listed, deleted, and still there after a restart; JSON is JSON.
. "$(dirname "$0")/lib.sh"
requires nbdinfo nbdcopy

need_daemon
same "the pid file names the daemon" $DAEMON "$(cat "$D/nbd-runner.pid")"
for verb in "status" "export list" "clients" "job list" "file list" "global list" "version"; do
    check "$verb --json is an object" bash -c '"$0" "$@" | /usr/bin/python3 -c "
import json, sys
assert isinstance(json.load(sys.stdin), dict)"' "$BUILDDIR/nbd-cli" --dir "$D" --json $verb
done

same "create says so" "Create succeeded!" "$(cli file create a size 1M)"
refuses "create in a folder that is not there is refused" 1 "folder" cli file create folder/b size 2M
mkdir "$D/images/folder"
check "create in a folder" cli file create folder/b size 2M
check "create with prealloc" cli file create c prealloc size 3M name third
same "the exports are listed" "file/a file/folder/b third" "$(export_names)"
same "prealloc allocates" 1 $(($(stat -c '%b * %B >= 3145728' "$D/images/c")))
same "the size is exact" 2097152 "$(stat -c %s "$D/images/folder/b")"
refuses "the same target again is refused" 1 "already" cli file create a size 1M
refuses "the same name again is refused" 1 "third" cli file create d size 1M name third
check "nothing is left of it" test ! -e "$D/images/d"
check "status of one export as JSON" bash -c '"$0" --dir "$1" --json export show third | /usr/bin/python3 -m json.tool' \
    "$BUILDDIR/nbd-cli" "$D"

head -c 1M /dev/urandom >"$T/data"
check "data is written" nbdcopy "$T/data" "$(uri file/a)"
check "the daemon ends with 0" stop_daemon
check "no pid file is left" test ! -e "$D/nbd-runner.pid"
check "no socket is left" test ! -e "$D/control.sock" -a ! -e "$D/nbd.sock"
refuses "without a daemon the tool says so" 3 "control.sock" cli status

need_daemon
same "a restart keeps the exports" "file/a file/folder/b third" "$(export_names)"
check "and their data" bash -c 'nbdcopy "$0" "$1" && cmp "$1" "$2"' "$(uri file/a)" "$T/copy" "$T/data"
kill_daemon
need_daemon
same "so does kill -9" "file/a file/folder/b third" "$(export_names)"

same "delete says so" "Delete succeeded!" "$(cli file delete a)"
check "the file is gone" test ! -e "$D/images/a"
same "a delete that is repeated finds nothing to do" "Delete succeeded!" "$(cli file delete a)"
refuses "the export is not served" 1 "" nbdinfo --size "$(uri file/a)"
check "delete by the export's target" cli file delete c
refuses "an unknown export cannot be removed" 1 "nosuch" cli export remove nosuch
same "one is left" "file/folder/b" "$(export_names)"
"$PYTHON" - "$(uri file/folder/b)" "$T/connected" <<'EOF' &
import sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
open(sys.argv[2], "w").close()
time.sleep(1000)
EOF
client=$!
stop_at_end+=($client)
check "a client connects" await 10 test -e "$T/connected"
same "it is counted" 1 "$(cli --json export show file/folder/b | json 'j["export"]["connections"]')"
refuses "an export in use is not deleted" 1 "connect" cli file delete folder/b
kill -KILL $client
wait $client 2>/dev/null
check "when the client is gone it is" await 10 cli file delete folder/b
same "none is left" "" "$(export_names)"
check "the daemon ends with 0" stop_daemon
