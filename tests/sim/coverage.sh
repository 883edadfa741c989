#!/bin/sh
# How much of the server's code the simulation runs: coverage.sh SEEDS REPORT, from the top level, by `make sim-coverage`.
# Cargo calls it as well, as the compiler of our own crates, which are built to count what they run.
set -eu
case $1 in
*rustc)
  exec "$@" -C instrument-coverage
  ;;
esac
seeds=$1 report=$2
rustup component add llvm-tools >/dev/null 2>&1 || { echo "sim-coverage needs rustup's component llvm-tools" >&2; exit 1; }
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
# shellcheck disable=SC2086
RUSTC_WORKSPACE_WRAPPER=$0 cargo build $SIM_FEATURES --profile sim --bin sim
cp "$CARGO_TARGET_DIR/sim/sim" "$counts/sim"
# Processes of one binary take turns with a few files; each adds to what is there.
LLVM_PROFILE_FILE=$counts/%8m.profraw "$counts/sim" --seed 1 --seeds "$seeds" >"$counts/said"
"$tools/llvm-profdata" merge -sparse "$counts"/*.profraw -o "$counts/all"
# Of each file: name; regions, missed, share; functions, missed, share; lines, missed, share.
"$tools/llvm-cov" report "$counts/sim" -instr-profile="$counts/all" "$PWD/server/src" >"$counts/files"
{
  echo "# make sim-coverage SEEDS=$seeds: lines of server/src that the simulation runs, tests left out; what it cannot run"
  echo "# at all (TLS, passwords, Lua, the admin API, the command line) is in the sum"
  grep -E '^ +[0-9]+ seeds' "$counts/said" | sed 's/^ */# /'
  awk '
    $1 ~ /tests?(\/|\.rs)|fuzz|^sim\// || $1 == "TOTAL" || $8 !~ /^[0-9]+$/ { next }
    { split($1, path, "/"); name = path[2] == "" ? "(top level)" : path[1]; lines[name] += $8; missed[name] += $9; all += $8; none += $9 }
    END {
      for (name in lines) printf "%-14s %6d of %6d lines, %3d %%\n", name, lines[name] - missed[name], lines[name], 100 - 100 * missed[name] / lines[name] | "sort"
      close("sort")
      printf "%-14s %6d of %6d lines, %3d %%\n", "all", all - none, all, 100 - 100 * none / all
    }' "$counts/files"
} >"$report"
cat "$report"
