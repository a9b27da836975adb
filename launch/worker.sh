#!/usr/bin/env bash
# One host's part of a pod: what tpu_pod.sh runs on every worker.
#
#   launch/worker.sh start -- --config=cub_gzsl --workdir=/mnt/shared/runs/cub
#
#   install [--extra=tpu]           a virtual environment in the checkout, with dedn in it
#   start -- [JOB] ARGUMENTS        starts a job of dedn (train if none is named) in the background,
#                                   if none is running
#   status                          one line: running, finished, stopped, ended STATUS, lost (its
#                                   process is gone without a word, as after a reboot), idle; then
#                                   `failures=N`, how often the job ended by itself with another
#                                   status than 0, and `done=N`, what there is of its results: lines
#                                   of metrics of a training or sweep, files of an extraction
#   stop [--timeout=SECONDS]        SIGTERM, waits until everything is saved (600), then SIGKILL
#   logs [--lines=N] [--prefix]     follows the log, with the host's name before each line
#     [--once]                      what there is of it, without waiting for more
#
#   --dry-run                       print the commands that install or start would run
#
# Log, process id and status are kept in the folder that DEDN_STATE names (~/dedn-jax-run).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
. "$here/common.sh"

root="$(dirname "$here")"
state="${DEDN_STATE:-$HOME/dedn-jax-run}"
host="$(hostname)"
extra=tpu
lines=100
timeout=600
prefix='' once=''
action="${1:-}"
case "$action" in
  install | start | status | stop | logs) shift ;;
  --help) usage; exit 0 ;;
  *) fail "unknown action '$action', expected install, start, status, stop or logs" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --extra=*) extra="${1#*=}" ;;
    --lines=*) lines="${1#*=}" ;;
    --timeout=*) timeout="${1#*=}" ;;
    --prefix) prefix=1 ;;
    --once) once=1 ;;
    --) shift; break ;;
    *) fail "unknown argument $1" ;;
  esac
  shift
done
word --extra "$extra" '[a-z]+' "an extra of setup.py, such as tpu"
number --lines "$lines" 0
number --timeout "$timeout" 1

running() {
  local pid
  pid="$(cat "$state/pid" 2>/dev/null)" || return 1
  kill -0 "$pid" 2>/dev/null || return 1
  # After a reboot the number may be another process's.
  [ ! -r "/proc/$pid/cmdline" ] || tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q resume.sh
}

report() {
  if running; then
    echo running
  elif [ "$(cat "$state/status" 2>/dev/null)" = 0 ]; then
    echo finished
  elif [ -f "$state/stopped" ]; then
    echo stopped
  elif [ -s "$state/status" ]; then
    echo "ended $(cat "$state/status")"
  elif [ -f "$state/pid" ]; then
    echo lost
  else
    echo idle
  fi
}

status() {
  local failures=0
  [ ! -f "$state/failures" ] || failures=$(($(wc -l <"$state/failures")))
  echo "dedn-worker $host: $(report) failures=$failures done=$(results)"
}

# A number that grows as long as the job gets on; 0 for a job that writes nothing before its end.
results() {
  local kind='' where=''
  { read -r kind && read -r where; } <"$state/job" 2>/dev/null || true
  case "$kind $where" in
    'train '*) echo $(($(content "$where/metrics.jsonl" | wc -l))) ;;
    'sweep '*) echo $(($(content "$where/points/*/metrics.jsonl" | wc -l))) ;;
    'features extract '*) echo $(($(find "$where" -type f ! -name '.*' 2>/dev/null | wc -l))) ;;
    *) echo 0 ;;
  esac
}

content() { # content FILES, of which only the name of a folder is a pattern
  local file
  case "$1" in
    *://*) gcloud storage cat "$1" 2>/dev/null || true ;;
    *'/*/'*) for file in "${1%%/\*/*}"/*/"${1##*/\*/}"; do cat "$file" 2>/dev/null || true; done ;;
    *) cat "$1" 2>/dev/null || true ;;
  esac
}

install() {
  local candidate python=''
  if running; then fail "a job is running on $host; stop it first"; fi
  cd "$root"
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then python="$candidate"; break; fi
  done
  if [ -n "$python" ]; then
    run "$python" -m venv .venv
  else
    # The images of Cloud TPUs have Python 3.10.
    run python3 -m pip install --quiet --user uv
    run python3 -m uv venv --quiet --allow-existing --seed --python=3.12 .venv
  fi
  run .venv/bin/pip install --quiet --disable-pip-version-check -c requirements.txt ".[$extra,bucket]"
}

start() {
  local above
  take_shared_job "$@"
  set -- "$here/resume.sh" --crashes --attempts=20 --pause=10 "--status-file=$state/status" \
    "--failures-file=$state/failures" -- "${job[@]}" "${job_arguments[@]}" --distributed
  if [ -n "$dry_run" ]; then run nohup setsid "$@"; return; fi
  # Without the shared filesystem every host would work in a directory of its own.
  case "$place" in
    /*)
      above="$(dirname "$place")"
      [ -d "$above" ] || fail "no folder $above on $host; mount the shared filesystem (tpu_pod.sh --setup=COMMAND), or make that folder" ;;
  esac
  mkdir -p "$state"
  exec 9>"$state/.lock"
  flock -w 60 9 || fail "another start is going on"
  if running; then
    echo "dedn-worker $host: running already"
    return
  fi
  rm -f "$state/status" "$state/stopped"
  printf '%s\n%s\n' "${job[*]}" "$place" >"$state/job"
  DEDN="${DEDN:-$root/.venv/bin/dedn}" \
    nohup setsid "$@" >>"$state/job.log" 2>&1 </dev/null 9>&- &
  echo "$!" >"$state/pid"
  echo "dedn-worker $host: started"
}

stop() {
  local pid left="$timeout"
  if running; then
    touch "$state/stopped"
    pid="$(cat "$state/pid")"
    kill -TERM "$pid" 2>/dev/null || true
    while running; do
      if [ "$left" -le 0 ]; then
        echo "$me: still running on $host after $timeout s; killed" >&2
        # All that it started: `setsid` made them one group.
        kill -KILL "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
      fi
      sleep 1
      left=$((left - 1))
    done
  fi
  echo "dedn-worker $host: $(report)"
}

logs() {
  local follow=(-F)
  [ -f "$state/job.log" ] || fail "no log on $host; nothing was started there"
  [ -z "$once" ] || follow=()
  if [ -n "$prefix" ]; then
    tail -n "$lines" ${follow[@]+"${follow[@]}"} "$state/job.log" 2>/dev/null | sed -u "s/^/$host: /"
  else
    exec tail -n "$lines" ${follow[@]+"${follow[@]}"} "$state/job.log"
  fi
}

case "$action" in
  install) install ;;
  start) start "$@" ;;
  status) status ;;
  stop) stop ;;
  logs) logs ;;
esac
