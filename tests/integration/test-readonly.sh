#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A read-only export refuses every change with EPERM, and the connection stays usable.
. "$(dirname "$0")/lib.sh"
requires nbdinfo
requires_python nbd

need_daemon
check "a writable export is created" cli file create disk size 4M
cp "$D/images/disk" "$T/before"
check "it is removed, the data stays" cli export remove file/disk
check "the file is there" cmp "$T/before" "$D/images/disk"
check "it is exported again, read-only" cli export add file disk name ro readonly
check "clients are told" nbdinfo --is readonly "$(uri ro)"
cat >"$T/ro.py" <<'EOF'
import errno, sys, nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
def refused(what, call, *args):
    try:
        call(*args)
    except nbd.Error as e:
        if e.errnum == errno.EPERM:
            return
        sys.exit("%s: errno %s" % (what, e.errno))
    sys.exit(what + " was accepted")
refused("write", h.pwrite, bytes(512), 0)
refused("trim", h.trim, 4096, 0)
refused("zero", h.zero, 4096, 0)
if h.pread(4096, 0) != bytes(4096):
    sys.exit("wrong bytes")
h.shutdown()
EOF
check "write, trim and zero get EPERM, reading goes on" "$PYTHON" "$T/ro.py" "$(uri ro)"
check "the file is as before" cmp "$T/before" "$D/images/disk"
check "the daemon ends with 0" stop_daemon
