#!/usr/bin/env bash
# Runs a training to its end across interruptions: starts it again whenever it was stopped by a
# signal (status 143 or 130 with everything saved, 137 when killed outright), and gives up on
# anything else.
#
#   launch/resume.sh [--dry-run] [--attempts=N] -- --config=configs/cub_gzsl.py --workdir=runs/cub
#
# Every argument after `--` goes to `dedn train`. Stopping this script itself (Ctrl-C, SIGTERM)
# passes the signal on, waits for the training to save, and does not start it again.
set -euo pipefail

attempts=10
dry_run=
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --attempts=*) attempts="${1#*=}" ;;
    --) shift; break ;;
    *) echo "resume.sh: unknown argument $1; usage: resume.sh [--dry-run] [--attempts=N] -- TRAIN_ARGUMENTS" >&2; exit 2 ;;
  esac
  shift
done
case "$attempts" in
  ''|*[!0-9]*|0) echo "resume.sh: --attempts=$attempts, expected a number from 1" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || { echo "resume.sh: nothing after --; give the arguments of dedn train" >&2; exit 2; }

if [ -n "$dry_run" ]; then
  printf 'up to %s times: dedn train' "$attempts"
  printf ' %q' "$@"
  printf '\n'
  exit 0
fi

child=
asked_to_stop=
pass_on() {
  asked_to_stop=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT

for attempt in $(seq "$attempts"); do
  [ -z "$asked_to_stop" ] || exit 143
  dedn train "$@" &
  child=$!
  status=0
  # A trapped signal ends `wait` early: wait again until the training itself is gone.
  while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=
  case "$status" in
    130|137|143) [ -z "$asked_to_stop" ] || exit "$status" ;;
    *) exit "$status" ;;
  esac
  echo "resume.sh: stopped by a signal (status $status), attempt $attempt of $attempts" >&2
done
echo "resume.sh: still not finished after $attempts attempts" >&2
exit 1
