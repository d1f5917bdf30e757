#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The harness itself: what a script under ./uml finds.
. "$(dirname "$0")/../integration/lib.sh"

same "the script is root" 0 "$(id -u)"
check "the driver is there" test -b /dev/nbd0
check "nothing of the outer machine can be changed" bash -c '! touch /etc/uml-was-here 2>/dev/null'
check "/tmp can be written" touch /tmp/here
check "/run can be written" touch /run/here
check "loopback is up" bash -c "ip -br addr show lo | grep -qF 127.0.0.1"
floats() { awk 'BEGIN { x = 1; for (i = 0; i < 300000; i++) x = x * 1.0000001; printf "%.6f", x }'; }
floats >"$T/f1" & floats >"$T/f2" & wait
check "floating point survives task switches" cmp "$T/f1" "$T/f2"
same "... and is right" 1.030455 "$(cat "$T/f1")"
