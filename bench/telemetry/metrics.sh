#!/bin/sh
# Metrics store: ingest, memory, queries and bytes on disk, for many short and for fewer long series.
set -eu
cd "$(dirname "$0")/../.."
cargo build --release -q -p wharf-telemetry --example metrics_bench
bin=${CARGO_TARGET_DIR:-target}/release/examples/metrics_bench
for shape in "100000 20" "20000 480"; do
    dir=$(mktemp -d)
    echo "series and samples each: $shape"
    # shellcheck disable=SC2086
    "$bin" "$dir" $shape
    rm -rf "$dir"
done
