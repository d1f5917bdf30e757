#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Storage that does not answer, and whose clients ask for more than the payload memory holds:
# others still get enough of it to work with several large requests at once.
. "$(dirname "$0")/lib.sh"
requires_python nbd
FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: $FAULT is not built; run 'make check TESTS='"; exit 77; }

mkdir "$D" "$T/handlers"
ln -s "$HANDLERS"/*.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers
printf '%s\n' '[generic]' 'max_inflight_bytes = 64M' >"$D/nbd-runner.conf"
touch "$T/hold"
need_daemon
check "storage that is stuck" cli export add fault a name stuck opt size=64M opt "hold=$T/hold"
check "and other storage that is stuck" \
    cli export add fault b name stuck2 opt size=64M opt "hold=$T/hold"
check "and some that is not" cli mem create m size 64M name lively

# Four connections with 32 reads of 1 MiB each, which end when the storage answers again.
cat >"$T/stuck.py" <<'END'
import sys
import nbd

handles, pending = [], []
for uri in sys.argv[1:3] * 2:
    handles.append(nbd.NBD())
    handles[-1].connect_uri(uri)
for h in handles:
    for i in range(32):
        pending.append((h, h.aio_pread(nbd.Buffer(1 << 20), i << 20)))
    while h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
        h.poll(100)
open(sys.argv[3], "w").close()
while pending:
    for h in handles:
        h.poll(10)
    pending = [(h, c) for h, c in pending if not h.aio_command_completed(c)]
print("all answered")
END
"$PYTHON" "$T/stuck.py" "$(uri stuck)" "$(uri stuck2)" "$T/asked" >"$T/stuck.out" 2>&1 &
asker=$!
stop_at_end+=($asker)
check "their clients ask for 128 MiB" await 20 test -e "$T/asked"
in_flight() { cli --json clients stuck | json 'sum(c["in_flight"] for c in j["clients"])'; }
has_some_in_flight() { [ "$(in_flight)" -gt 20 ]; }
check "of which the daemon takes a part" await 10 has_some_in_flight

# Eight writes of 1 MiB at once, again and again.
cat >"$T/lively.py" <<'END'
import sys
import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = nbd.Buffer.from_bytearray(bytearray(b"x" * (1 << 20)))
for turn in range(16):
    cookies = [h.aio_pwrite(data, i << 20) for i in range(8)]
    while cookies:
        h.poll(1000)
        cookies = [c for c in cookies if not h.aio_command_completed(c)]
h.shutdown()
END
check "large writes elsewhere go on" timeout 20 "$PYTHON" "$T/lively.py" "$(uri lively)"

rm "$T/hold"
check "what was stuck is answered when the storage is back" await 20 is_gone $asker
same "all of it" "all answered" "$(cat "$T/stuck.out")"
check "the daemon ends with 0" stop_daemon
