#!/usr/bin/env bash
# A hundred containers at once: from the first command to the last end, `true` in the same image, run and removed.
#
#     bench/containers/parallel.sh [--runs 5] [--network none|host|bridge] [--at-once 100]
#
# As start.sh, which it is.
set -euo pipefail
exec "$(dirname "$0")/start.sh" --runs 5 --at-once 100 "$@"
