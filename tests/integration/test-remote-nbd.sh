#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports of other NBD servers as backstores: contents both ways, what the server says passed
# on, and servers that are away, vanish, hang, shrink or are read-only.
. "$(dirname "$0")/lib.sh"
requires nbdkit qemu-nbd qemu-img qemu-io nbdcopy nbdinfo fio
requires_python nbd

start_at_socket() { # SOCKET COMMAND...: $SERVER is its pid when the socket is there
    local socket=$1
    shift
    rm -f "$socket"
    "$@" >>"$T/servers.log" 2>&1 </dev/null &
    SERVER=$!
    stop_at_end+=($SERVER)
    await 10 test -S "$socket" || { fail "the server starts: $*" "$T/servers.log"; exit 1; }
}
start_nbdkit() { # SOCKET [ARG...]: nbdkit in the foreground
    local socket=$1
    shift
    start_at_socket "$socket" nbdkit -f -U "$socket" "$@"
}
# A port that is free may be somebody's a moment later; nbdkit, which ends then, gets another.
start_nbdkit_at_port() { # ARG...: sets `port`
    local i
    is_up_or_gone() { [ -s "$T/kit.pid" ] || is_gone $SERVER; }
    for i in 1 2 3 4 5; do
        rm -f "$T/kit.pid"
        port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
        nbdkit -f -P "$T/kit.pid" -i 127.0.0.1 -p "$port" "$@" >>"$T/servers.log" 2>&1 </dev/null &
        SERVER=$! && stop_at_end+=($SERVER)
        await 10 is_up_or_gone
        is_gone $SERVER || return 0
    done
    return 1
}
kill_server() {
    kill -KILL $SERVER
    wait $SERVER 2>/dev/null
}
add() { cli export add nbd "$@"; }
descriptors() { ls "/proc/$DAEMON/fd" | wc -l; }

cd "$T" || exit 1 # fio leaves files where it runs
need_daemon
idle_descriptors=$(descriptors)

# ---- contents ----
head -c 30000128 /dev/urandom >"$T/original"
copies_both_ways() { # NAME TARGET FILE: FILE, equal to the original, is what TARGET serves
    local name=$1 target=$2 file=$3
    check "$name: the export is added" add "$target" name "$name"
    same "$name: the size is the server's" 30000128 "$(nbdinfo --size "$(uri "$name")")"
    check "$name: it is copied out" nbdcopy "$(uri "$name")" "$T/copy"
    check "$name: the copy is equal" cmp "$T/original" "$T/copy"
    tac "$T/original" | head -c 30000128 >"$T/new"
    truncate -s 30000128 "$T/new"
    check "$name: it is copied in" nbdcopy --flush "$T/new" "$(uri "$name")"
    check "$name: the server's file is equal" cmp "$T/new" "$file"
    check "$name: patterns" qemu-io -f raw -c 'write -P 5 1000k 3000k' \
        -c 'write -f -P 6 512 512' -c 'write -z 8M 1M' -c 'discard 16M 64k' -c flush \
        -c 'read -P 5 1000k 3000k' -c 'read -P 6 512 512' -c 'read -P 0 8M 1M' \
        "$(uri "$name")"
    nbdcopy "$(uri "$name")" "$T/copy"
    check "$name: and they are in the file" cmp "$T/copy" "$file"
}

cp "$T/original" "$T/kit"
start_nbdkit "$T/kit.sock" file "$T/kit"
copies_both_ways kit "unix:$T/kit.sock:" "$T/kit"
same "several connections where the server allows them" 4 \
    "$(ls -l "/proc/$SERVER/fd" | grep -c socket: | awk '{ print $1 - 1 }')"
check "the server's abilities are passed on" nbdinfo --can cache "$(uri kit)"

cp "$T/original" "$T/serve"
start_at_socket "$T/serve.sock" "$BUILDDIR/nbd-runner" serve --handler-dir "$HANDLERS" \
    --file "$T/serve" --unix "$T/serve.sock"
copies_both_ways serve "nbd+unix:///?socket=$T/serve.sock" "$T/serve"

cp "$T/original" "$T/qemu"
start_at_socket "$T/qemu.sock" qemu-nbd -t -f raw -x some/name -k "$T/qemu.sock" "$T/qemu"
copies_both_ways qemu "unix:$T/qemu.sock:some/name" "$T/qemu"

start_nbdkit "$T/mem.sock" memory 64M
check "memory: the export is added" add "unix:$T/mem.sock:" name memory
check "memory: random checked I/O" fio --name=v --ioengine=nbd --uri="$(uri memory)" \
    --rw=randrw --bsrange=512-128k --bs_unaligned=1 --blockalign=512 --size=64M --io_size=48M \
    --iodepth=32 --verify=crc32c --verify_fatal=1 \
    --output="$T/fio.log"
kill_server

check "TCP: the server is there" start_nbdkit_at_port file "$T/kit"
for target in "127.0.0.1:$port/any" "localhost:$port/" "nbd://127.0.0.1:$port/x"; do
    check "TCP: $target is added" add "$target" name tcp
    check "TCP: it serves" nbdcopy "$(uri tcp)" "$T/copy"
    check "TCP: the copy is equal" cmp "$T/kit" "$T/copy"
    check "TCP: it is removed" cli export remove tcp
done
kill_server

# ---- small and odd ----
start_nbdkit "$T/small.sock" --filter=blocksize-policy memory 1M blocksize-minimum=512 \
    blocksize-preferred=8192 blocksize-maximum=65536 blocksize-error-policy=error
check "a server with small blocks is added" add "unix:$T/small.sock:" name small
check "its minimum is passed on" nbdinfo --json "$(uri small)"
same "as it is" 512 "$(nbdinfo --json "$(uri small)" |
    json 'j["exports"][0]["block_size_minimum"]')"
check "requests beyond its maximum are sent in pieces" qemu-io -f raw \
    -c 'write -P 9 512 1000k' -c 'read -P 9 512 1000k' "$(uri small)"
kill_server

# ---- block status ----
truncate -s 64M "$T/sparse"
printf x | dd of="$T/sparse" bs=1 seek=10M conv=notrunc status=none
qemu-img convert -O qcow2 "$T/sparse" "$T/sparse.qcow2"
start_at_socket "$T/map.sock" qemu-nbd -t -f qcow2 -k "$T/map.sock" "$T/sparse.qcow2"
check "a server that takes one client only is added" add "unix:$T/map.sock:" name map
nbdinfo --map "$(uri map)" >"$T/map.ours"
# It answers nobody else before the backstore is closed.
check "it is removed" cli export remove map
timeout 20 nbdinfo --map "nbd+unix:///?socket=$T/map.sock" >"$T/map.its"
check "the map is the server's" cmp "$T/map.its" "$T/map.ours"
check "and has holes" grep -q hole "$T/map.ours"
kill_server
start_nbdkit "$T/map.sock" --no-sr memory 1M
check "a server without block status is added" add "unix:$T/map.sock:" name map
same "all of it is data" 0 "$(nbdinfo --map "$(uri map)" | grep -vc data)"
kill_server
check "its server is gone, it is removed" cli export remove map

# ---- read-only ----
start_at_socket "$T/ro.sock" qemu-nbd -t -r -f raw -k "$T/ro.sock" "$T/qemu"
refuses "a read-only server is not written" 1 'export it with "readonly"' \
    add "unix:$T/ro.sock:" name ro
check "but read" add "unix:$T/ro.sock:" name ro readonly
check "and is read-only here" nbdinfo --is readonly "$(uri ro)"
check "its contents are right" nbdcopy "$(uri ro)" "$T/copy"
check "indeed" cmp "$T/qemu" "$T/copy"
kill_server

# ---- nobody, and somebody who does not answer ----
refuses "a server that is away is named" 1 "cannot connect to 'unix:$T/none.sock:x'" \
    add "unix:$T/none.sock:x" name none
"$PYTHON" -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
time.sleep(600)' "$T/silent.sock" &
stop_at_end+=($!)
await 10 test -S "$T/silent.sock"
start=$SECONDS
refuses "a silent server is not waited for" 1 "no NBD server answered there within" \
    add "unix:$T/silent.sock:x" name silent
check "for much more than 10 seconds" test $((SECONDS - start)) -le 30

# ---- targets and options ----
says() { refuses "target $1: $3" 1 "$3" add "$1" name wrong $2; }
says "host" "" "names no export"
says "/export" "" "names no host"
says "host:99999/x" "" "'99999' is no port"
says "host:/x" "" "'' is no port"
says "::1/x" "" "in brackets"
says "[::1/x" "" "no ']'"
says "unix:/run/x" "" "names no export"
says "unix:run/x:y" "" "absolute path"
says "http://host/x" "" "is no NBD URI"
says "nbd:///x" "" "names no host"
says "nbd+unix:///x" "" "no parameter socket"
says "host/x" "opt colour=red" "has no option 'colour'"
says "host/x" "opt connections=0" "a number from 1 to 16"
says "host/x" "opt request_timeout=soon" "a number from 1"
says "host/x" "opt tls_certificates=here" "absolute path"
says "nbd://host/x" "opt tls_certificates=/etc" "nbds"
refuses "create says that it cannot" 1 "not supported by this backstore" \
    cli nbd create "unix:$T/kit.sock:made" size 1M name made
check "delete with keep-data forgets it" cli nbd delete "unix:$T/kit.sock:" keep-data
check "the server's file is still there" test -s "$T/kit"

# ---- TLS ----
if command -v openssl >/dev/null && nbdkit --dump-config | grep -q '^tls=yes'; then
    mkdir "$T/pki"
    (
        cd "$T/pki" &&
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -days 2 -keyout ca-key.pem \
            -out ca-cert.pem -addext keyUsage=keyCertSign,cRLSign &&
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server-key.pem \
            -out server.csr &&
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >ext &&
        openssl x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
            -days 2 -extfile ext -out server-cert.pem
    ) >"$T/out" 2>&1 || fail "certificates are made" "$T/out"
    check "TLS: the server is there" start_nbdkit_at_port --tls=require \
        --tls-certificates="$T/pki" file "$T/kit"
    check "TLS: the export is added" add "localhost:$port/" name tls \
        opt tls_certificates="$T/pki"
    check "TLS: it serves" nbdcopy "$(uri tls)" "$T/copy"
    check "TLS: the copy is equal" cmp "$T/kit" "$T/copy"
    refuses "TLS: without it the server refuses" 1 "TLS" add "127.0.0.1:$port/" name plain
    check "TLS: it is removed" cli export remove tls
    kill_server
fi

# ---- servers that come back ----
truncate -s 64M "$T/disk"
start_nbdkit "$T/disk.sock" file "$T/disk"
check "a server to be killed is added" add "unix:$T/disk.sock:" name disk \
    opt request_timeout=20
fio --name=v --ioengine=nbd --uri="$(uri disk)" --rw=randwrite --bs=4k --size=64M \
    --io_size=16M --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1 \
    --rate_iops=2000 \
    --output="$T/fio.log" &
fio=$!
from=$(($(log_lines) + 1))
for i in 1 2 3; do
    sleep 0.4 # any moment of its work will do
    kill_server
    await 10 is_logged "connection lost" $from
    from=$(($(log_lines) + 1))
    start_nbdkit "$T/disk.sock" file "$T/disk"
    check "kill $i: the connection comes back" await 10 is_logged "connected again" $from
done
finish 120 $fio
same "checked I/O goes on over three kills of the server" 0 $?

cat >"$T/flush.py" <<'EOP'
import errno, os, signal, sys, nbd
uri, pid = sys.argv[1], int(sys.argv[2])
h = nbd.NBD()
h.connect_uri(uri)
try:
    h.flush()
except nbd.Error:
    pass  # owed since an earlier loss
h.pwrite(b"a" * 4096, 0)
os.kill(pid, signal.SIGKILL)
try:
    h.flush()
    sys.exit("the flush after the loss succeeded")
except nbd.Error as e:
    if e.errnum != errno.EIO:
        sys.exit("the flush failed with " + str(e))
h.flush()
h.pwrite(b"b" * 4096, 0)
h.flush()
if h.pread(4096, 0) != b"b" * 4096:
    sys.exit("wrong bytes")
h.shutdown()
EOP
from=$(($(log_lines) + 1))
timeout 60 "$PYTHON" "$T/flush.py" "$(uri disk)" $SERVER >"$T/flush.out" 2>&1 &
flush=$!
finish 60 $SERVER 2>/dev/null # until it is killed
start_nbdkit "$T/disk.sock" file "$T/disk"
finish 60 $flush
same "writes that died with the server make one flush fail" "0 " "$? $(cat "$T/flush.out")"
check "the log says why" await 10 is_logged "acknowledged but not flushed" $from

# ---- servers that hang ----
check "it is removed" cli export remove disk
check "and added with a short limit" add "unix:$T/disk.sock:" name disk \
    opt request_timeout=2
qemu-io -f raw -c 'read 0 4k' "$(uri disk)" >"$T/out" 2>&1
kill -STOP $SERVER
fails() { ! timeout 30 "$@"; }
start=$SECONDS
check "a server that hangs: requests fail" fails qemu-io -f raw -c 'read 0 4k' "$(uri disk)"
check "in the time that was set" test $((SECONDS - start)) -le 20
check "other exports go on" qemu-io -f raw -c 'read 0 4k' "$(uri serve)"
kill -CONT $SERVER
check "it goes on: requests succeed" await 20 qemu-io -f raw -c 'read -P 98 0 4k' \
    "$(uri disk)"

# ---- servers that come back as others ----
cat >"$T/stay.py" <<'EOP'
import os, sys, time, nbd
uri, path = sys.argv[1:]
def await_file(name):
    open(path + "/" + name + ".wanted", "w").close()
    while not os.path.exists(path + "/" + name):
        time.sleep(0.02)
def reads():
    try:
        return h.pread(4096, 0) == b"b" * 4096
    except nbd.Error:
        return False
h = nbd.NBD()
h.connect_uri(uri)
if not reads():
    sys.exit("it cannot be read at first")
await_file("smaller")
start = time.monotonic()
if reads() or time.monotonic() - start >= 2: # its request_timeout
    sys.exit("it was read, or failed late")
await_file("right")
start = time.monotonic()
while not reads():
    if time.monotonic() - start > 30:
        sys.exit("it cannot be read again")
    time.sleep(0.1)
h.shutdown()
EOP
from=$(($(log_lines) + 1))
timeout 90 "$PYTHON" "$T/stay.py" "$(uri disk)" "$T" >"$T/stay.out" 2>&1 &
stay=$!
check "a client stays" await 10 test -e "$T/smaller.wanted"
kill_server
start_nbdkit "$T/disk.sock" memory 1M
check "a smaller server is refused" await 15 is_logged "has come back smaller" $from
touch "$T/smaller"
await 10 test -e "$T/right.wanted"
kill_server
start_nbdkit "$T/disk.sock" file "$T/disk"
touch "$T/right"
finish 90 $stay
same "requests fail at once, until the right one is back" "0 " "$? $(cat "$T/stay.out")"

# ---- a connection that breaks at any byte ----
cat >"$T/cutter.py" <<'EOP'
import random, selectors, socket, sys, threading
listen, server = sys.argv[1:]
def pump(a, b, left):
    """Pass on that many bytes both ways, then cut, in the middle of a message or not."""
    peers = {a: b, b: a}
    ready = selectors.DefaultSelector()
    for s in peers:
        ready.register(s, selectors.EVENT_READ)
    try:
        while left > 0:
            for key, _ in ready.select():
                data = key.fileobj.recv(max(1, min(left, 65536)))
                if not data:
                    left = 0
                    break
                peers[key.fileobj].sendall(data)
                left -= len(data)
    except OSError:
        pass
    a.close()
    b.close()
random.seed(1)
s = socket.socket(socket.AF_UNIX)
s.bind(listen)
s.listen()
first = True
while True:
    client = s.accept()[0]
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(server)
    # Mostly in the middle of the traffic, sometimes in the handshake.
    left = random.randrange(10, 400) if random.random() < 0.2 else random.randrange(2000000)
    threading.Thread(target=pump, args=(client, upstream, 1000 if first else left),
                     daemon=True).start()
    first = False
EOP
truncate -s 32M "$T/whole"
start_at_socket "$T/whole.sock" "$BUILDDIR/nbd-runner" serve --handler-dir "$HANDLERS" \
    --file "$T/whole" --unix "$T/whole.sock"
start_at_socket "$T/cut.sock" "$PYTHON" "$T/cutter.py" "$T/cut.sock" "$T/whole.sock"
from=$(($(log_lines) + 1))
check "it is added" add "unix:$T/cut.sock:" name cut opt request_timeout=60 opt connections=1
check "checked I/O goes on over it" timeout 120 fio --name=v --ioengine=nbd \
    --uri="$(uri cut)" --rw=randrw --bsrange=512-64k --bs_unaligned=1 --blockalign=512 \
    --size=32M --io_size=16M --iodepth=16 --verify=crc32c --verify_fatal=1 \
    --output="$T/fio.log"
check "which broke indeed" [ "$(tail -n "+$from" "$LOG" | grep -c 'connected again')" -ge 5 ]

# ---- the end ----
kill_server
for name in $(export_names); do
    cli export remove "$name" force >"$T/out" 2>&1 || fail "$name is removed" "$T/out"
done
same "no export is left" "" "$(export_names)"
no_more_descriptors() { [ "$(descriptors)" -le $((idle_descriptors + 2)) ]; }
check "no descriptor is left" await 15 no_more_descriptors
check "the daemon ends with 0" stop_daemon
