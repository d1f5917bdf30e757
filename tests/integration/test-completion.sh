#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Completion of nbd-cli: what it offers, and that bash, zsh and fish complete with it.
. "$(dirname "$0")/lib.sh"
requires zsh fish
requires_python nbd
[ -e /usr/share/bash-completion/bash_completion ] || { echo "skip: no bash-completion"; exit 77; }
COMPLETIONS=$SRCDIR/completions

offers() { cli complete "$@" | cut -f1 | tr '\n' ' ' | sed 's/ $//'; }
has() { # NAME WORD WORDS...: WORD is offered
    local name=$1 word=$2
    shift 2
    check "$name" grep -qxF -- "$word" <(cli complete "$@" | cut -f1)
}
has_not() {
    local name=$1 word=$2
    shift 2
    cli complete "$@" | cut -f1 >"$T/offered"
    check "$name" bash -c '! grep -qxF -- "$0" "$1"' "$word" "$T/offered"
}

# ---- without a daemon ----
same "commands are known without a daemon" "status" "$(offers stat)"
same "exports are not, and nothing is said" "help" "$(offers export show '' 2>&1)"
check "a strange line does no harm" cli complete --dir
check "an empty line does no harm" cli complete
start=$(date +%s%N)
cli complete export show x >/dev/null
check "and it takes no time" test $((($(date +%s%N) - start) / 1000000)) -lt $((5000 * SLOWNESS))

# ---- what is offered ----
need_daemon
for disk in alpha beta:1 'gamma delta'; do
    check "an export: $disk" cli file create "$disk" size 1M name "$disk"
done
check "another target" cli file create target1 size 1M name omega
check "verbs of a backstore" grep -q "create delete.* map unmap list help" <(offers file '')
has "verbs of a handler from elsewhere" create toy cr
same "backstores begin like other words" "file" "$(offers fi)"
same "exports" "alpha" "$(offers export show a)"
same "exports with blanks" "gamma delta" "$(offers export show gam)"
same "exports for an optional word" "omega" "$(offers status om)"
same "targets of the backstore" "target1" "$(offers file delete tar)"
has_not "not of another" target1 null delete tar
same "a new target is not" "help" "$(offers file create '')"
same "but files are" ":files" "$(offers file create /et)"
has "words of a command" prealloc file create x pre
has_not "not those given" prealloc file create x prealloc p
has "options" --prealloc file create x --pre
has "of every command" --json file create x --j
same "no words where a value stands" "" "$(offers file create x size '')"
same "values with '='" "--dir=" "$(cli complete export list --dir= | sed 's/.*:directories/--dir=/')"
same "levels" "warning" "$(offers log-level w)"
same "commands to explain" "status" "$(offers help stat)"
same "behind options" "alpha" "$(cli complete --json --timeout 5 export show a | cut -f1)"
"$PYTHON" -c 'import nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("connected", flush=True)
time.sleep(120)' "$(uri alpha)" >"$T/client" &
stop_at_end+=($!)
check "a client connects" await 20 grep -q connected "$T/client"
id=$(cli --json clients alpha | json 'j["clients"][0]["id"]')
has "clients" "$id" kick ''
job=$(cli file create slow prealloc size 1M nowait)
check "the job ends" cli job wait "$job"
has "jobs" "$job" job show "${job:0:8}"

# ---- installed where the shells look ----
DEST=$T/dest
check "they are installed" make -C "$BUILDDIR" DESTDIR="$DEST" install-completions
for file in bash-completion/completions/nbd-cli zsh/site-functions/_nbd-cli \
    fish/vendor_completions.d/nbd-cli.fish; do
    check "$file" test -s "$(find "$DEST" -path "*/share/$file" -print -quit)"
done

# ---- the shells ----
BIN=$T/bin
mkdir "$BIN" "$T/zsh" "$T/a b"
cat >"$BIN/nbd-cli" <<EOF
#!/bin/bash
[ "\${1-}" != complete ] || exec "$BUILDDIR/nbd-cli" "\$@"
printf 'RAN:'
printf '[%s]' "\$@"
echo
EOF
chmod +x "$BIN/nbd-cli"
cat >"$T/bashrc" <<EOF
PS1='ready> '
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
. /usr/share/bash-completion/bash_completion
. "$COMPLETIONS/nbd-cli.bash"
EOF
cp "$COMPLETIONS/nbd-cli.zsh" "$T/zsh/_nbd-cli"
cat >"$T/zsh/.zshrc" <<EOF
fpath=("$T/zsh" \$fpath)
autoload -Uz compinit && compinit -u -D
unsetopt beep zle_bracketed_paste 2>/dev/null
unset zle_bracketed_paste
PS1='ready> '
EOF
export PATH=$BIN:$PATH NBD_RUNNER_DIR=$D ZDOTDIR=$T/zsh HISTFILE=
press() { # bash|zsh LINE
    local -A with=([bash]="bash --noprofile --rcfile $T/bashrc -i" [zsh]="zsh -d -i")
    # shellcheck disable=SC2086
    timeout 100 "$PYTHON" "$HERE/press-tab.py" "$2" ${with[$1]} 2>&1
}
for shell in bash zsh; do
    same "$shell: a command" "RAN:[status]" "$(press $shell 'nbd-cli stat\t')"
    same "$shell: one word after the other" "RAN:[export][show][alpha]" \
        "$(press $shell 'nbd-cli exp\tsho\tal\t')"
    same "$shell: a name with a colon" "RAN:[export][show][beta:1]" \
        "$(press $shell 'nbd-cli export show be\t')"
    same "$shell: behind the colon" "RAN:[export][show][beta:1]" \
        "$(press $shell 'nbd-cli export show beta:\t')"
    same "$shell: a name with a blank" "RAN:[export][show][gamma delta]" \
        "$(press $shell 'nbd-cli export show gam\t')"
    same "$shell: an option" "RAN:[file][create][x][--prealloc]" \
        "$(press $shell 'nbd-cli file create x --prea\t')"
    same "$shell: a directory" "RAN:[--dir][$T/bin]" \
        "$(press $shell "nbd-cli --dir $T/bi\\t" | sed 's,/]$,],')"
    same "$shell: the value of an option" "RAN:[acl][alpha][--default-deny=off]" \
        "$(press $shell 'nbd-cli acl alpha --default-deny=of\t')"
    same "$shell: a directory with a blank, for an option" "RAN:[--dir=$T/a b]" \
        "$(press $shell "nbd-cli --dir=$T/a\\t" | sed 's,/]$,],')"
done
"$PYTHON" "$HERE/press-tab.py" --list 'nbd-cli export show \t\t' \
    bash --noprofile --rcfile "$T/bashrc" -i >"$T/shown"
check "bash shows what there is" grep -q 'alpha.*beta:1' <(tr '\n' ' ' <"$T/shown")

in_fish() { fish --no-config -c "source '$COMPLETIONS/nbd-cli.fish'; complete -C '$1'" | cut -f1 |
    tr '\n' ' ' | sed 's/ $//'; }
same "fish: a command" "status" "$(in_fish 'nbd-cli stat')"
same "fish: exports" "alpha" "$(in_fish 'nbd-cli export show al')"
same "fish: a name with a colon" "beta:1" "$(in_fish 'nbd-cli export show beta:')"
same "fish: a name with a blank" "gamma delta" "$(in_fish 'nbd-cli export show gam')"
same "fish: in quotes" "gamma delta" "$(in_fish 'nbd-cli export show "gamma d')"
same "fish: an option" "--prealloc" "$(in_fish 'nbd-cli file create x --prea')"
same "fish: a directory" "$T/bin/" "$(in_fish "nbd-cli --dir $T/bi")"
check "fish: with its meaning" grep -q "ready, 1M" \
    <(fish --no-config -c "source '$COMPLETIONS/nbd-cli.fish'; complete -C 'nbd-cli status al'")

check "the daemon ends with 0" stop_daemon
