# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Completion of nbd-cli for fish. nbd-cli itself knows what can follow, and writes it as fish
# wants it: the word, a tab, the meaning.

function __nbd_cli_complete
    set -l given (commandline --tokenize --cut-at-cursor --current-process)
    set -l partial (commandline --current-token --cut-at-cursor | string trim --left --chars '"\'')
    for line in ($given[1] complete $given[2..-1] "$partial" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path $partial
            case :directories
                __fish_complete_directories $partial
            case '*'
                echo $line
        end
    end
end

complete --command nbd-cli --no-files --arguments '(__nbd_cli_complete)'
