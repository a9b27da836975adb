#!/usr/bin/env bash
# A job of dedn on a Cloud TPU pod, from creating it to deleting it.
#
#   launch/tpu_pod.sh watch --name=dedn --project=my-project --zone=us-west4-a \
#       --type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite --spot --queue --delete-on=always --max-hours=20 \
#       --setup='sudo mkdir -p /mnt/shared && sudo mount -t nfs 10.0.0.2:/share /mnt/shared' \
#       -- --config=cub_gzsl --workdir=/mnt/shared/runs/cub
#
# Actions:
#   create    the TPU VM, or with --queue a queued resource of the same name, and waits for it
#   install   runs --setup, copies the checkout and installs it, on every worker
#   start     the same job on every worker (`dedn train ... --distributed`), in the background and
#             again after a crash; what is in the work directory goes on; no effect where it runs
#   status    of the TPU and of every worker
#   logs      follows worker 0, or --worker=N, or --worker=all
#   stop      SIGTERM to every worker; waits until everything is saved
#   restart   after a preemption: deletes what is left, creates, installs, starts
#   watch     until the job has finished: does whatever of the above is needed, and looks again
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
#   --failures=N                                watch gives up after N failed looks, creations or
#                                               installations in a row (100)
#   --crashes=N                                 and after N crashes, preemptions or stalls without a
#                                               step in between (10)
#   --stall=MINUTES                             a job that has logged no step, or stored no features,
#                                               for so long is stopped and started again (60; 0:
#                                               never); evaluate and predict cannot be told
#   --grace=SECONDS                             to save, for stop and for watch where it stops the
#                                               run; what then still runs is killed (600)
#   --max-hours=H                               watch saves the run and deletes the TPU once it was
#                                               there for H hours in all
#   --price=P --max-cost=C                      the same once H x chips x P is C
#   --delete-on=finish|mistake|giveup|always    watch deletes the TPU when it ends for that reason;
#                                               several with commas; always: after `stop` too
#   --dry-run                                   print the commands, run nothing
#   -- [JOB] ARGUMENTS                          for start, restart and watch: of dedn: train if none
#                                               is named, sweep, features extract, evaluate, predict;
#                                               --workdir on a filesystem that all workers share or in
#                                               a bucket (gs://), --out of features extract on the former
#
# Status of watch: 0 finished; 2 a mistake in config or data, see the log; 143 the run was stopped
# with `stop`; 1 gave up, or reached a limit.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
. "$here/common.sh"

name='' zone='' project='' type='' runtime='' setup='' worker=0
spot='' queue='' interval=60 failures=100 max_crashes=10 stall=60 grace=600
max_hours='' max_cost='' price='' delete_on=''
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
    --crashes=*) max_crashes="${1#*=}" ;;
    --stall=*) stall="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --max-hours=*) max_hours="${1#*=}" ;;
    --max-cost=*) max_cost="${1#*=}" ;;
    --price=*) price="${1#*=}" ;;
    --delete-on=*) delete_on="${1#*=}" ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (the job of dedn goes after --)" ;;
  esac
  shift
done
word --name "$name" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' "lower-case letters, digits and hyphens, a letter first"
word --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone such as us-west4-a"
word --project "$project" '[a-z][a-z0-9.:-]*[a-z0-9]' "the id of a Google Cloud project"
word --worker "$worker" 'all|[0-9]+' "a number from 0, or all"
number --interval "$interval" 0
number --failures "$failures" 1
number --crashes "$max_crashes" 1
number --grace "$grace" 1
decimal --stall "$stall"
[ -z "$max_hours" ] || decimal --max-hours "$max_hours"
[ -z "$max_cost" ] || decimal --max-cost "$max_cost"
[ -z "$price" ] || decimal --price "$price"
[ -z "$max_cost" ] || [ -n "$price" ] || fail "--max-cost=$max_cost: what does a chip cost an hour? give --price"
ends='(finish|mistake|giveup|always)'
[ -z "$delete_on" ] || word --delete-on "$delete_on" "$ends(,$ends)*" "finish, mistake, giveup or always"
case "$setup" in *[$'\n\r']*) fail "a line break in --setup" ;; esac
case "$action" in
  create | restart | watch)
    word --type "$type" '[a-z0-9]+-[0-9]+' "an accelerator type such as v5litepod-256"
    word --runtime-version "$runtime" '[a-z0-9][a-z0-9.-]*' "a TPU runtime version such as v2-alpha-tpuv5-lite" ;;
esac
case "$action" in
  start | restart | watch) take_shared_job "$@" ;;
  *) [ $# -eq 0 ] || fail "arguments after -- are for start, restart and watch" ;;
esac
# shellcheck source=tpu_watch.sh
. "$here/tpu_watch.sh"
[ -n "$dry_run" ] || command -v gcloud >/dev/null || fail "no gcloud on PATH; install the Google Cloud CLI"

if [ -n "$price" ] && [ -n "$type" ]; then
  chips_of "$type" >/dev/null || fail "--price: how many chips has --type=$type? known: v2, v3, v4, v5litepod, v5p, v6e"
fi

where=("--zone=$zone" "--project=$project")
worker_sh=dedn-jax/launch/worker.sh
within='' # seconds after which a command on the workers is given up

on_workers() { # on_workers WORKER COMMAND
  local bound=()
  if [ -n "$within" ] && command -v timeout >/dev/null; then bound=(timeout -k 10 "$within"); fi
  if [ -n "$dry_run" ]; then bound=(); fi
  run ${bound[@]+"${bound[@]}"} gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
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
  # A mount that hangs is one that fails.
  if [ -n "$setup" ]; then within=900 on_workers all "$setup" || return 1; fi
  run mkdir -p "$root/build" || return 1
  run tar -C "$root" --exclude=__pycache__ -czf "$archive" \
    dedn_jax configs launch setup.py pyproject.toml requirements.txt README.md LICENSE NOTICE || return 1
  run gcloud compute tpus tpu-vm scp "$archive" "$name:dedn-jax.tar.gz" "${where[@]}" --worker=all || return 1
  within=1800 on_workers all "mkdir -p dedn-jax && tar -C dedn-jax -xzf dedn-jax.tar.gz && $worker_sh install --extra=tpu"
}

start() { on_workers all "$worker_sh start -- $(quoted "${job[@]}" "${job_arguments[@]}")"; }

restart() { # restart STATE
  if [ "$1" != GONE ]; then
    delete || return 1
    account no
  fi
  create || return 1
  account yes
  install && start
}

worker_status() {
  on_workers all "if [ -x $worker_sh ]; then $worker_sh status; else echo \"dedn-worker \$(hostname): not installed\"; fi"
}

case "$action" in
  create) create ;;
  install) install ;;
  start) start ;;
  stop) stop_workers ;;
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
  watch) if [ -n "$dry_run" ]; then print_watch; else watch; fi ;;
esac
