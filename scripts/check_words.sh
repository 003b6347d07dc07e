#!/usr/bin/env bash
# Fails on words that must not be in the repository, printing each line that has one.
# The patterns are written so that they don't match themselves: [x] stands for x.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0

# forbid TITLE PATTERN: an extended regular expression, upper and lower case alike. Tracked files
# are searched, and untracked ones that are not ignored.
forbid() {
    local status=0
    git grep --untracked --no-color -I -n -i -E -e "$2" -- || status=$?
    case $status in
        0)
            echo "^ not allowed here: $1" >&2
            failed=1
            ;;
        1) ;;
        *)
            echo "git grep failed with status $status" >&2
            exit 2
            ;;
    esac
}

start='(^|[^[:alnum:]_.-])'

forbid "registry hosts and index settings" \
    'pypi[.]org|[f]iles\.pythonhosted|registry[.]npmjs|-[-](extra-)?index-url|[P]IP_INDEX_URL|/opt/[w]heels'
forbid "paths of one machine" \
    "$start/([r]oot|[w]ork)/|shared/[d]esign"
forbid "how the project is written" \
    "(in|during) [t]his session($|[^'])|[c]laude|[a]nthropic|[c]hatgpt|sub-?[a]gents?\b|as an [a]i\b|[a]i[- ](generated|assistant)|founder[-]engineer"
forbid "issue numbers (say what it is about; owner/name#1 is fine for another project's tracker)" \
    "\\b(issues?|bugs?|tickets?|prs?|pull requests?|fix(es|ed)?|close[sd]?|resolve[sd]?|see) #[0-9]+|(^|[[:space:](])#[0-9]+\\)"

exit "$failed"
