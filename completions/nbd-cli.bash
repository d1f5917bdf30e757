# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Completion of nbd-cli for bash (with bash-completion). nbd-cli itself knows what can follow;
# this hands its answer to readline.

_nbd_cli()
{
    local cur prev words cword
    # Names have ":" and options "=": neither ends a word here.
    _init_completion -n ':=' || return

    local line word option= typed=$cur
    # readline replaces only what stands behind the "=" of --option=VALUE.
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*}=
        cur=${cur#*=}
    fi
    while IFS= read -r line; do
        case $line in
            :files) _filedir ;;
            :directories) _filedir -d ;;
            *)
                line=${line%%$'\t'*}
                printf -v word '%q' "${line#"$option"}"
                COMPREPLY+=("$word")
                ;;
        esac
    done < <("$1" complete "${words[@]:1:cword-1}" "$typed" 2>/dev/null)

    __ltrim_colon_completions "$cur"
} &&
    complete -F _nbd_cli nbd-cli
