#!/usr/bin/env bash
# Runs a training to its end across interruptions: starts it again whenever it was stopped by a
# signal (status 143 or 130 with everything saved, 137 when killed outright), and gives up on
# anything else; with --crashes only on a mistake in config or data (status 2).
#
#   launch/resume.sh [--dry-run] [--attempts=N] -- --config=configs/cub_gzsl.py --workdir=runs/cub
#
# Every argument after `--` goes to `dedn train`. Stopping this script itself (Ctrl-C, SIGTERM)
# passes the signal on, waits for the training to save, and does not start it again.
#
#   --attempts=N        at most N starts (10)
#   --crashes           start again after any status but 0 and 2
#   --pause=SECONDS     wait between two starts (0)
#   --status-file=FILE  write the final status there
#   --dry-run           print what would be run
#
# The environment variable DEDN names the program (dedn).
set -euo pipefail

dedn="${DEDN:-dedn}"
attempts=10
crashes=
pause=0
status_file=
dry_run=
while [ $# -gt 0 ]; do
  case "$1" in
    --help) sed -n '/^#!/d; /^#/!q; s/^#$//p; s/^# //p' "$0"; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --attempts=*) attempts="${1#*=}" ;;
    --crashes) crashes=1 ;;
    --pause=*) pause="${1#*=}" ;;
    --status-file=*) status_file="${1#*=}" ;;
    --) shift; break ;;
    *) echo "resume.sh: unknown argument $1; usage: resume.sh [--dry-run] [--attempts=N] -- TRAIN_ARGUMENTS" >&2; exit 2 ;;
  esac
  shift
done
case "$attempts" in
  ''|*[!0-9]*|0) echo "resume.sh: --attempts=$attempts, expected a number from 1" >&2; exit 2 ;;
esac
case "$pause" in
  ''|*[!0-9]*) echo "resume.sh: --pause=$pause, expected a number from 0" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || { echo "resume.sh: nothing after --; give the arguments of dedn train" >&2; exit 2; }

if [ -n "$dry_run" ]; then
  printf 'up to %s times: %q train' "$attempts" "$dedn"
  printf ' %q' "$@"
  printf '\n'
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
  "$dedn" train "$@" &
  child=$!
  [ -z "$asked_to_stop" ] || kill -TERM "$child" 2>/dev/null || true
  # A trapped signal ends `wait` early: wait again until the training itself is gone.
  while :; do
    interrupted=
    status=0
    wait "$child" || status=$?
    [ -n "$interrupted" ] || break
  done
  child=
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
