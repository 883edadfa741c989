#!/bin/sh
# Runs one target of the fuzzer, or each in turn, for a time each: run.sh PROGRAM SECONDS REPORT [TARGET...].
# What it learns is kept in a cache for the next run; the corpus in the repository is read, not written. An input that
# breaks a target is written beside the cache: add it to tests/fuzz/corpus/<target>/ with the mend, so that it is replayed.
# REPORT holds the sums of its day; what all days have together is said at the end.
set -eu
program=$1 seconds=$2 report=$3
shift 3
here=$(dirname "$0")
cache=${KVNODE_CACHE:-$HOME/.cache/kvnode}/fuzz
[ $# -gt 0 ] || set -- $(ls "$here/corpus")
# What the machine of `apply` writes.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# add TARGET EXECUTIONS BROKEN: to the sums of the day.
add() {
  [ -f "$report" ] || echo "# make fuzz, all runs of this day: target, executions, inputs that broke it" >"$report"
  awk -v target="$1" -v runs="$2" -v broken="$3" '
    /^#/ { print; next }
    $1 == target { $2 += runs; $3 += broken; seen = 1 }
    { print $1, $2, $3 }
    END { if (!seen) print target, runs, broken }' OFMT=%d CONVFMT=%d "$report" >"$TMPDIR/report"
  cp "$TMPDIR/report" "$report"
}

broken=
for target; do
  mkdir -p "$cache/$target"
  breaks=0
  if ! KVNODE_FUZZ_TARGET=$target "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$cache/$target-" "$cache/$target" "$here/corpus/$target" >"$cache/$target.log" 2>&1; then
    broken="$broken $target" breaks=1
    tail -40 "$cache/$target.log"
  fi
  awk -v target="$target" '/number_of_executed_units/ { runs = $2 } /new_units_added/ { found = $2 } /peak_rss_mb/ { rss = $2 }
    END { printf "%-12s %s executions, %s inputs added, %s MiB at most\n", target, runs, found, rss }' "$cache/$target.log"
  add "$target" "$(awk '/number_of_executed_units/ { runs = $2 } END { print runs + 0 }' "$cache/$target.log")" "$breaks"
done
awk '!/^#/ { sum += $2 } END { printf "all days: %d executions\n", sum }' "$(dirname "$report")"/*-fuzz.txt
[ -z "$broken" ] || { echo "broken:$broken (inputs in $cache)" >&2; exit 1; }
