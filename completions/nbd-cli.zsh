#compdef nbd-cli
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Completion of nbd-cli for zsh. nbd-cli itself knows what can follow; this hands its answer,
# with the meanings, to the completion system.

_nbd_cli() {
    local line text
    local -a candidates
    local -i found=1

    # In the array the words are as typed: (Q) takes quotes and backslashes away.
    for line in "${(@f)$("${(Q)words[1]}" complete "${(@Q)words[2,CURRENT-1]}" \
        "${(Q)PREFIX}" 2>/dev/null)}"; do
        case $line in
            :files) compset -P '--*='; _files && found=0 ;;
            :directories) compset -P '--*='; _files -/ && found=0 ;;
            ?*)
                text=${line%%$'\t'*}
                candidates+=("${text//:/\\:}:${line#*$'\t'}")
                ;;
        esac
    done
    (( $#candidates )) && _describe 'nbd-cli' candidates && found=0
    return found
}

_nbd_cli "$@"
