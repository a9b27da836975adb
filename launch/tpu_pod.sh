#!/usr/bin/env bash
# A training on a Cloud TPU pod, from creating it to deleting it.
#
#   launch/tpu_pod.sh watch --name=dedn --project=my-project --zone=us-west4-a \
#       --type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite --spot --queue \
#       --setup='sudo mkdir -p /mnt/shared && sudo mount -t nfs 10.0.0.2:/share /mnt/shared' \
#       -- --config=cub_gzsl --workdir=/mnt/shared/runs/cub
#
# Actions:
#   create    the TPU VM, or with --queue a queued resource of the same name, and waits for it
#   install   runs --setup, copies the checkout and installs it, on every worker
#   start     the same `dedn train ... --distributed` on every worker, in the background and again
#             after a crash; a run in the work directory goes on; no effect where it is running
#   status    of the TPU and of every worker
#   logs      follows worker 0, or --worker=N, or --worker=all
#   stop      SIGTERM to every worker; waits until everything is saved
#   restart   after a preemption: deletes what is left, creates, installs, starts
#   watch     until the run has finished: does whatever of the above is needed, and looks again
#             every --interval seconds; give it alone, or after start
#   delete    the TPU; until then it is charged for
#
#   --name=NAME --zone=ZONE --project=PROJECT   always
#   --type=TYPE --runtime-version=VERSION       for create, restart and watch
#   --spot                                      cheaper, may be taken away at any time
#   --queue                                     wait in Google's queue for free capacity
#   --setup=COMMAND                             on every worker before anything else: mounts
#   --worker=N|all                              for logs
#   --interval=SECONDS                          between two looks (60)
#   --failures=N                                watch gives up after N failures in a row (100)
#   --then-delete                               watch deletes the TPU once the run has finished
#   --dry-run                                   print the commands, run nothing
#   -- TRAIN_ARGUMENTS                          for start, restart and watch; --workdir on a
#                                               filesystem that all workers share
#
# Status of watch: 0 finished; 2 a mistake in config or data, see the log; 143 the run was stopped
# with `stop`; 1 gave up.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
. "$here/common.sh"

name='' zone='' project='' type='' runtime='' setup='' worker=0
spot='' queue='' then_delete='' interval=60 failures=100
action="${1:-}"
case "$action" in
  create | install | start | status | logs | stop | restart | watch | delete) shift ;;
  --help) usage; exit 0 ;;
  *) fail "unknown action '$action', expected create, install, start, status, logs, stop, restart, watch or delete" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --runtime-version=*) runtime="${1#*=}" ;;
    --spot) spot=1 ;;
    --queue) queue=1 ;;
    --setup=*) setup="${1#*=}" ;;
    --worker=*) worker="${1#*=}" ;;
    --interval=*) interval="${1#*=}" ;;
    --failures=*) failures="${1#*=}" ;;
    --then-delete) then_delete=1 ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (arguments of dedn train go after --)" ;;
  esac
  shift
done
word --name "$name" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' "lower-case letters, digits and hyphens, a letter first"
word --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone such as us-west4-a"
word --project "$project" '[a-z][a-z0-9.:-]*[a-z0-9]' "the id of a Google Cloud project"
word --worker "$worker" 'all|[0-9]+' "a number from 0, or all"
number --interval "$interval" 0
number --failures "$failures" 1
case "$setup" in *[$'\n\r']*) fail "a line break in --setup" ;; esac
case "$action" in
  create | restart | watch)
    word --type "$type" '[a-z0-9]+-[0-9]+' "an accelerator type such as v5litepod-256"
    word --runtime-version "$runtime" '[a-z0-9][a-z0-9.-]*' "a TPU runtime version such as v2-alpha-tpuv5-lite" ;;
esac
case "$action" in
  start | restart | watch) check_training "$@" ;;
  *) [ $# -eq 0 ] || fail "arguments after -- are for start, restart and watch" ;;
esac
[ -n "$dry_run" ] || command -v gcloud >/dev/null || fail "no gcloud on PATH; install the Google Cloud CLI"

where=("--zone=$zone" "--project=$project")
worker_sh=dedn-jax/launch/worker.sh
train=("$@")

on_workers() { # on_workers WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

describe() {
  if [ -n "$queue" ]; then
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" "--format=value(state.state)"
  else
    run gcloud compute tpus tpu-vm describe "$name" "${where[@]}" "--format=value(state)"
  fi
}

# The state of the TPU in one word, GONE when there is none; fails when that cannot be told.
# A queued resource is ACTIVE where a TPU VM is READY.
state() {
  local text
  if text="$(describe 2>&1)"; then
    text="${text##*$'\n'}"
    case "$text" in
      ACTIVE) echo READY ;;
      *) echo "${text:-UNKNOWN}" ;;
    esac
  else
    case "$text" in
      *NOT_FOUND* | *"not found"*) echo GONE ;;
      *) echo "$text" >&2; return 1 ;;
    esac
  fi
}

say() { echo "$me: $*" >&2; }

create() {
  local tier=()
  if [ -n "$spot" ]; then tier=(--spot); fi
  if [ -n "$queue" ]; then
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" "--node-id=$name" \
      "--accelerator-type=$type" "--runtime-version=$runtime" ${tier[@]+"${tier[@]}"} || return 1
    wait_until_ready || return 1
  else
    run gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
      "--accelerator-type=$type" "--version=$runtime" ${tier[@]+"${tier[@]}"} || return 1
  fi
}

wait_until_ready() {
  local now before='' unknown=0
  if [ -n "$dry_run" ]; then describe; return; fi
  while :; do
    if now="$(state)"; then
      unknown=0
      case "$now" in
        READY) return 0 ;;
        GONE | FAILED | SUSPENDED) say "$name is $now"; return 1 ;;
      esac
    else
      unknown=$((unknown + 1))
      now=unknown
      [ "$unknown" -lt "$failures" ] || return 1
    fi
    [ "$now" = "$before" ] || say "$name is $now; waiting"
    before="$now"
    sleep "$interval"
  done
}

delete() {
  if [ -n "$queue" ]; then
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

install() {
  local root archive
  root="$(dirname "$here")"
  archive="$root/build/dedn-jax-$name.tar.gz"
  if [ -n "$setup" ]; then on_workers all "$setup" || return 1; fi
  run mkdir -p "$root/build" || return 1
  run tar -C "$root" --exclude=__pycache__ -czf "$archive" \
    dedn_jax configs launch setup.py pyproject.toml requirements.txt README.md LICENSE || return 1
  run gcloud compute tpus tpu-vm scp "$archive" "$name:dedn-jax.tar.gz" "${where[@]}" --worker=all || return 1
  on_workers all "mkdir -p dedn-jax && tar -C dedn-jax -xzf dedn-jax.tar.gz && $worker_sh install --extra=tpu"
}

start() { on_workers all "$worker_sh start -- $(quoted "${train[@]}") --distributed"; }

restart() { # restart STATE
  if [ "$1" != GONE ]; then delete || return 1; fi
  create && install && start
}

worker_status() {
  on_workers all "if [ -x $worker_sh ]; then $worker_sh status; else echo \"dedn-worker \$(hostname): not installed\"; fi"
}

# One look at a pod that is READY: 0 the run is going on; 10 finished; 11 stopped; 12 a mistake in
# config or data; 1 something failed.
look() {
  local states
  states="$(worker_status | sed -n 's/.*dedn-worker [^ ]*: //p' | sort -u)" || return 1
  [ -n "$states" ] || return 1
  case $'\n'"$states"$'\n' in
    *$'\nended 2\n'*) return 12 ;;
    *$'\nstopped\n'*) return 11 ;;
    *$'\nnot installed\n'*) say "installing and starting"; install && start ;;
    *$'\nidle\n'* | *$'\nlost\n'*) say "starting"; start ;;
    *$'\nended '*) say "a worker has given up; starting again"; start; return 1 ;;
    *$'\nrunning\n'*) return 0 ;;
    *$'\nfinished\n'*) return 10 ;;
    *) say "unexpected: $states"; return 1 ;;
  esac
}

watch() {
  local now before='' failed=0 status
  while :; do
    status=0
    now="$(state)" || { now=unknown; status=1; }
    [ "$now" = "$before" ] || say "$name is $now"
    before="$now"
    case "$now" in
      unknown) ;;
      READY) look || status=$? ;;
      GONE | PREEMPTED | TERMINATED | STOPPED | FAILED | SUSPENDED) restart "$now" || status=1 ;;
      *) ;; # on its way to one of these
    esac
    case "$status" in
      0) failed=0 ;;
      10) break ;;
      11) say "the run was stopped; $name is still there, and charged for"; exit 143 ;;
      12) say "a mistake in config or data (see '$me logs'); $name is still there, and charged for"; exit 2 ;;
      *) failed=$((failed + 1)) ;;
    esac
    if [ "$failed" -ge "$failures" ]; then
      say "$failed failures in a row; giving up; $name may still be there, and charged for"
      exit 1
    fi
    sleep "$interval"
  done
  if [ -n "$then_delete" ]; then
    say "finished; deleting $name"
    delete
  else
    say "finished; $name is still there, and charged for until '$me delete'"
  fi
}

case "$action" in
  create) create ;;
  install) install ;;
  start) start ;;
  stop) on_workers all "$worker_sh stop" ;;
  delete) delete ;;
  logs)
    follow="$worker_sh logs"
    [ "$worker" != all ] || follow="$follow --prefix"
    on_workers "$worker" "$follow" ;;
  status)
    if [ -n "$dry_run" ]; then
      describe
      worker_status
    else
      now="$(state)" || exit 1
      echo "$name: $now"
      [ "$now" != READY ] || worker_status
    fi ;;
  restart)
    if [ -n "$dry_run" ]; then
      describe
      restart PREEMPTED
    else
      now="$(state)" || exit 1
      [ "$now" != READY ] || fail "$name is READY: 'start' starts the run again, 'delete' deletes the TPU"
      restart "$now"
    fi ;;
  watch)
    if [ -n "$dry_run" ]; then
      echo "# every $interval s:"
      describe
      worker_status
      echo "# after a preemption:"
      restart PREEMPTED
      if [ -n "$then_delete" ]; then
        echo "# when finished:"
        delete
      fi
    else
      watch
    fi ;;
esac
