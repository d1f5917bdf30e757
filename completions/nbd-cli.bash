# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Completion of nbd-cli for bash (with bash-completion). nbd-cli itself knows what can follow;
# this hands its answer to readline.

_nbd_cli()
{
    local cur prev words cword
    # Names have ":" and options "=": neither ends a word here.
    _init_completion -n ':=' || return

    local line word
    while IFS= read -r line; do
        case $line in
            :files)
                compopt -o filenames
                COMPREPLY+=($(compgen -f -- "$cur"))
                ;;
            :directories)
                compopt -o filenames
                COMPREPLY+=($(compgen -d -- "$cur"))
                ;;
            *)
                printf -v word '%q' "${line%%$'\t'*}"
                COMPREPLY+=("$word")
                ;;
        esac
    done < <("$1" complete "${words[@]:1:cword-1}" "$cur" 2>/dev/null)

    __ltrim_colon_completions "$cur"
} &&
    complete -F _nbd_cli nbd-cli
