#!/usr/bin/env bash
# One machine, several processes: a rehearsal of a pod on the CPU, or one process per GPU.
#
#   launch/local.sh --processes=2 --cpu -- train --config=cub_gzsl --workdir=runs/two
#
# After `--` comes a job of dedn that several processes can run (train if none is named, sweep,
# features extract, evaluate, predict) and its arguments.
# Each line of output has the number of its process before it. When one process fails, the others
# are told to stop, and the script ends with that process's status; Ctrl-C and SIGTERM are passed
# on and waited for.
#
#   --processes=N    how many
#   --cpu            on the CPU; otherwise process I gets GPU I
#   --devices=D      D GPUs per process (1)
#   --logs=DIR       each process's output in DIR/process-I.log as well
#   --grace=SECONDS  a process that was told to stop is killed after so long (60)
#   --port=PORT      of the coordinator; by default one that is free
#   --dry-run        print the commands
#
# The environment variable DEDN names the program (dedn).
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dedn="${DEDN:-dedn}"
processes='' cpu='' devices=1 logs='' grace=60 port=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --processes=*) processes="${1#*=}" ;;
    --cpu) cpu=1 ;;
    --devices=*) devices="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --port=*) port="${1#*=}" ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (the job of dedn goes after --)" ;;
  esac
  shift
done
number --processes "$processes" 1
number --devices "$devices" 1
number --grace "$grace" 0
[ $# -gt 0 ] || fail "nothing after --; give a job of dedn with its arguments"
take_job "$@"
set -- "${job[@]}" ${job_arguments[@]+"${job_arguments[@]}"}
for argument in "$@"; do
  case "$argument" in
    --distributed | --coordinator* | --processes* | --process | --process=*)
      fail "$argument is added here; leave it out after --" ;;
    *[$'\n\r']*) fail "a line break in an argument after --" ;;
  esac
done
if [ -z "$port" ]; then
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + RANDOM % 12000))
    # Nobody answers there: it is free.
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
fi
number --port "$port" 1
[ -n "$dry_run" ] || command -v "$dedn" >/dev/null || fail "no $dedn on PATH; activate its environment, or name it in DEDN"

# GPUs to share out: those of CUDA_VISIBLE_DEVICES, or 0, 1, ...
gpus=()
if [ -z "$cpu" ]; then
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
    [ "${#gpus[@]}" -ge $((processes * devices)) ] ||
      fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES, expected $((processes * devices)) devices for $processes processes"
  else
    for ((i = 0; i < processes * devices; i++)); do gpus[i]="$i"; done
  fi
fi

# One process in place of this shell.
process() {
  local number="$1" setting
  shift
  if [ -n "$cpu" ]; then
    setting=JAX_PLATFORMS=cpu
  else
    setting="$(IFS=,; echo "CUDA_VISIBLE_DEVICES=${gpus[*]:number*devices:devices}")"
  fi
  set -- env "$setting" "$dedn" "$@" "--coordinator=127.0.0.1:$port" "--processes=$processes" "--process=$number"
  if [ -n "$dry_run" ]; then run "$@"; else exec "$@"; fi
}

# The output of one process, for the terminal and for the log.
copy_output() {
  trap '' INT TERM
  if [ -n "$logs" ]; then tee -a -- "$logs/process-$1.log"; else cat; fi |
    while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < processes; i++)); do process "$i" "$@"; done
  exit 0
fi
if [ -n "$logs" ]; then mkdir -p -- "$logs"; fi

pipes="$(mktemp -d)"
trap 'rm -rf -- "$pipes"' EXIT
copies=()
for ((i = 0; i < processes; i++)); do
  mkfifo "$pipes/$i"
  copy_output "$i" <"$pipes/$i" &
  copies[i]=$!
done

children=()
first_failure=0
left=''
asked='' # what to send to all that are left
stopping=''
trap 'asked=INT' INT
trap 'asked=TERM' TERM

# With job control each process is a group of its own: Ctrl-C reaches it through this script
# alone, and what it started can be killed with it.
set -m
for ((i = 0; i < processes; i++)); do
  process "$i" "$@" </dev/null >"$pipes/$i" 2>&1 &
  children[i]=$!
done
set +m

signal_all() {
  for ((i = 0; i < processes; i++)); do
    [ -z "${children[i]}" ] || kill "-$1" "$2${children[i]}" 2>/dev/null || true
  done
}

while :; do
  left=
  for ((i = 0; i < processes; i++)); do
    [ -n "${children[i]}" ] || continue
    if kill -0 "${children[i]}" 2>/dev/null; then
      left=1
      continue
    fi
    status=0
    wait "${children[i]}" 2>/dev/null || status=$?
    children[i]=
    [ "$status" -ne 0 ] || continue
    echo "$me: process $i ended with status $status" >&2
    [ "$first_failure" -ne 0 ] || first_failure="$status"
    [ -n "$stopping" ] || asked=TERM
  done
  [ -n "$left" ] || break
  if [ -n "$asked" ]; then
    [ -n "$stopping" ] || stopping="$SECONDS"
    signal_all "$asked" ''
    asked=
  fi
  if [ -n "$stopping" ] && [ $((SECONDS - stopping)) -ge "$grace" ]; then
    echo "$me: still running after $grace s; killing what is left" >&2
    signal_all KILL -
    grace=1000000
  fi
  sleep 0.1 || true
done
# The last lines of output; not for ever, should something still hold a pipe.
until="$((SECONDS + 3))"
for copy in "${copies[@]}"; do
  while kill -0 "$copy" 2>/dev/null && [ "$SECONDS" -lt "$until" ]; do sleep 0.05 || true; done
done
exit "$first_failure"
