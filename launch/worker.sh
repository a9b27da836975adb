#!/usr/bin/env bash
# One host's part of a pod: what tpu_pod.sh runs on every worker.
#
#   launch/worker.sh start -- --config=cub_gzsl --workdir=/mnt/shared/runs/cub --distributed
#
#   install [--extra=tpu]           a virtual environment in the checkout, with dedn in it
#   start -- TRAIN_ARGUMENTS        starts the training in the background, if none is running
#   status                          one line: running, finished, stopped, ended STATUS, lost (its
#                                   process is gone without a word, as after a reboot), idle
#   stop [--timeout=SECONDS]        SIGTERM, then waits until everything is saved (600)
#   logs [--lines=N] [--prefix]     follows the log, with the host's name before each line
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
prefix=
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
  local workdir
  workdir="$(cat "$state/workdir" 2>/dev/null || true)"
  if running; then
    echo running
  elif [ -n "$workdir" ] && [ -f "$workdir/result.json" ]; then
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

install() {
  local candidate python=''
  if running; then fail "a training is running on $host; stop it first"; fi
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
  run .venv/bin/pip install --quiet --disable-pip-version-check -c requirements.txt ".[$extra]"
}

start() {
  local workdir above
  [ $# -gt 0 ] || fail "nothing after --; give the arguments of dedn train"
  workdir="$(workdir_of "$@")"
  [ -n "$workdir" ] || fail "no --workdir=DIR after --"
  above="$(dirname "$workdir")"
  set -- "$here/resume.sh" --crashes --attempts=100 --pause=10 "--status-file=$state/status" -- "$@"
  if [ -n "$dry_run" ]; then run nohup setsid "$@"; return; fi
  # Without the shared filesystem every host would train into a directory of its own.
  [ -d "$above" ] || fail "no folder $above on $host; mount the shared filesystem (tpu_pod.sh --setup=COMMAND), or make that folder"
  mkdir -p "$state"
  exec 9>"$state/.lock"
  flock -w 60 9 || fail "another start is going on"
  if running; then
    echo "dedn-worker $host: running already"
    return
  fi
  rm -f "$state/status" "$state/stopped"
  printf '%s\n' "$workdir" >"$state/workdir"
  DEDN="${DEDN:-$root/.venv/bin/dedn}" \
    nohup setsid "$@" >>"$state/train.log" 2>&1 </dev/null 9>&- &
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
      [ "$left" -gt 0 ] || { echo "worker.sh: still running on $host after $timeout s" >&2; exit 1; }
      sleep 1
      left=$((left - 1))
    done
  fi
  echo "dedn-worker $host: $(report)"
}

logs() {
  [ -f "$state/train.log" ] || fail "no log on $host; nothing was started there"
  if [ -n "$prefix" ]; then
    tail -n "$lines" -F "$state/train.log" 2>/dev/null | sed -u "s/^/$host: /"
  else
    exec tail -n "$lines" -F "$state/train.log"
  fi
}

case "$action" in
  install) install ;;
  start) start "$@" ;;
  status) echo "dedn-worker $host: $(report)" ;;
  stop) stop ;;
  logs) logs ;;
esac
