#!/usr/bin/env bash
# Runs a job of dedn to its end across interruptions: starts it again whenever it was stopped by a
# signal (status 143 or 130 with everything saved, 137 when killed outright), and gives up on
# anything else; with --crashes only on a mistake in config or data (status 2).
#
#   launch/resume.sh [--dry-run] [--attempts=N] -- --config=configs/cub_gzsl.py --workdir=runs/cub
#
# After `--` come a job of dedn that takes up its work again (train if none is named, sweep,
# features extract, evaluate, predict) and its arguments. Stopping this script itself (Ctrl-C,
# SIGTERM) passes the signal on, waits for the job to save, and does not start it again.
#
#   --attempts=N        at most N starts (10)
#   --crashes           start again after any status but 0 and 2: a loss that diverged, others that
#                       did not come, fell silent or ended (1), processes that died of a signal
#   --pause=SECONDS     wait between two starts (0)
#   --status-file=FILE  write the final status there
#   --failures-file=FILE  add a line there, date and status, whenever the job ends with neither 0
#                       nor told to stop
#   --dry-run           print what would be run
#
# The environment variable DEDN names the program (dedn).
set -euo pipefail

# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dedn="${DEDN:-dedn}"
attempts=10 crashes='' pause=0 status_file='' failures_file=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --attempts=*) attempts="${1#*=}" ;;
    --crashes) crashes=1 ;;
    --pause=*) pause="${1#*=}" ;;
    --status-file=*) status_file="${1#*=}" ;;
    --failures-file=*) failures_file="${1#*=}" ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (the job of dedn goes after --)" ;;
  esac
  shift
done
number --attempts "$attempts" 1
number --pause "$pause" 0
[ $# -gt 0 ] || fail "nothing after --; give a job of dedn with its arguments"
take_job "$@"
command=("$dedn" "${job[@]}" ${job_arguments[@]+"${job_arguments[@]}"})

if [ -n "$dry_run" ]; then
  printf 'up to %s times: ' "$attempts"
  run "${command[@]}"
  exit 0
fi

child=
asked_to_stop=
interrupted=
# shellcheck disable=SC2317,SC2329  # called by trap
pass_on() {
  asked_to_stop=1
  interrupted=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT
if [ -n "$status_file" ]; then
  trap 'echo "$?" > "$status_file"' EXIT
fi

for attempt in $(seq "$attempts"); do
  [ -z "$asked_to_stop" ] || exit 143
  "${command[@]}" &
  child=$!
  [ -z "$asked_to_stop" ] || kill -TERM "$child" 2>/dev/null || true
  # A trapped signal ends `wait` early: wait again until the job itself is gone.
  while :; do
    interrupted=
    status=0
    wait "$child" || status=$?
    [ -n "$interrupted" ] || break
  done
  child=
  if [ -n "$failures_file" ] && [ -z "$asked_to_stop" ] && [ "$status" -ne 0 ]; then
    echo "$(date +%s) $status" >>"$failures_file"
  fi
  case "$status" in
    130|137|143) why="stopped by a signal" ;;
    0|2) exit "$status" ;;
    *) [ -n "$crashes" ] || exit "$status"; why="crashed" ;;
  esac
  [ -z "$asked_to_stop" ] || exit "$status"
  echo "resume.sh: $why (status $status), attempt $attempt of $attempts" >&2
  if [ "$pause" -gt 0 ] && [ "$attempt" -lt "$attempts" ]; then
    sleep "$pause" &
    wait "$!" || true
  fi
done
echo "resume.sh: still not finished after $attempts attempts" >&2
exit 1
