#!/usr/bin/env bash
# A job of dedn on GPU nodes of a Slurm cluster, to its end: it saves before its time is over or
# it is preempted, and queues itself again.
#
#   launch/slurm.sh --nodes=2 --gpus=8 --time=08:00:00 -- --config=cub_gzsl --workdir=/shared/runs/cub
#
#   --nodes=N --gpus=G       G GPUs on each of N nodes (1, 1)
#   --tasks=gpu|node         a process for each GPU, or one for all GPUs of a node (gpu)
#   --cpus=N                 CPU cores for each process (8)
#   --time=[D-]HH:MM:SS      at most so long at a stretch (24:00:00)
#   --partition=P --account=A --name=NAME    (cluster's default, cluster's default, dedn)
#   --grace=SECONDS          to save before the time is over (120)
#   --restarts=N             queue again at most N times (100)
#   --dry-run                print the sbatch command with the script it reads
#   -- [JOB] ARGUMENTS       of dedn: train if none is named, sweep, features extract, evaluate,
#                            predict; --workdir on a filesystem that all nodes share or in a bucket
#                            (gs://, s3://), --out of features extract on the former
#
# The job runs in the environment that this is called from (activate the one with dedn in it); the
# environment variable DEDN names the program (dedn). Finished: status 0. A mistake in config or
# data (status 2) and `scancel` end the job for good; anything else queues it again.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dedn="${DEDN:-dedn}"
nodes=1 gpus=1 tasks=gpu cpus=8 time=24:00:00 partition='' account='' name=dedn grace=120 restarts=100
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --nodes=*) nodes="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --tasks=*) tasks="${1#*=}" ;;
    --cpus=*) cpus="${1#*=}" ;;
    --time=*) time="${1#*=}" ;;
    --partition=*) partition="${1#*=}" ;;
    --account=*) account="${1#*=}" ;;
    --name=*) name="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (the job of dedn goes after --)" ;;
  esac
  shift
done
number --nodes "$nodes" 1
number --gpus "$gpus" 1
number --cpus "$cpus" 1
number --grace "$grace" 1
number --restarts "$restarts" 0
word --tasks "$tasks" 'gpu|node' "gpu or node"
word --time "$time" '([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}' "a time such as 08:00:00 or 2-00:00:00"
word --name "$name" '[A-Za-z0-9._-]+' "letters, digits, points, hyphens"
word --partition "$partition" '[A-Za-z0-9._,-]*' "a partition's name"
word --account "$account" '[A-Za-z0-9._-]*' "an account's name"
take_shared_job "$@"
[ -n "$dry_run" ] || command -v sbatch >/dev/null || fail "no sbatch on PATH; run this where Slurm is"

script() {
  local per_node="$gpus" ids
  [ "$tasks" = gpu ] || per_node=1
  echo '#!/usr/bin/env bash'
  echo "#SBATCH --job-name=$name"
  echo "#SBATCH --nodes=$nodes"
  echo "#SBATCH --ntasks-per-node=$per_node"
  echo "#SBATCH --gpus-per-node=$gpus"
  echo "#SBATCH --cpus-per-task=$cpus"
  echo "#SBATCH --time=$time"
  [ -z "$partition" ] || echo "#SBATCH --partition=$partition"
  [ -z "$account" ] || echo "#SBATCH --account=$account"
  echo "#SBATCH --output=%x-%j.log"
  echo "#SBATCH --open-mode=append"
  # To the processes alone, not to this script, which TERM reaches on scancel and preemption.
  echo "#SBATCH --signal=TERM@$grace"
  echo "#SBATCH --requeue"
  echo 'set -euo pipefail'
  if [ "$tasks" = node ]; then
    ids="$(seq -s, 0 $((gpus - 1)))"
    echo '# One process a node: without this JAX takes one GPU for each process.'
    echo "export JAX_LOCAL_DEVICE_IDS=$ids"
  fi
  cat <<END
told_to_end=
trap 'told_to_end=1' TERM
status=0
# srun ends with the largest status of all processes: a mistake, 2, has to be the largest. The trap
# makes bash wait for a process that saves.
one='trap : TERM INT; "\$@"; status=\$?; [ \$status -ne 2 ] || status=255; exit \$status'
# A process that ends before the others leaves them time to save.
srun --kill-on-bad-exit=0 --wait=$((grace > 600 ? grace : 600)) --cpus-per-task=$cpus --gpu-bind=none \\
  bash -c "\$one" - \\
  $(quoted "$dedn" "${job[@]}" "${job_arguments[@]}") --distributed || status=\$?
END
  cat <<'END'
case "$status" in
  0) echo "finished"; exit 0 ;;
  255) echo "a mistake in config or data; not queued again" >&2; exit 2 ;;
esac
if [ -n "$told_to_end" ]; then
  echo "status $status: cancelled or preempted; Slurm queues a preempted job again itself" >&2
  exit "$status"
fi
END
  cat <<END
if [ "\${SLURM_RESTART_COUNT:-0}" -ge $restarts ]; then
  echo "status \$status after $restarts restarts; not queued again" >&2
  exit "\$status"
fi
echo "status \$status: queued again" >&2
scontrol requeue "\$SLURM_JOB_ID"
END
}

if [ -n "$dry_run" ]; then
  echo "sbatch <<'END_OF_SCRIPT'"
  script "$@"
  echo END_OF_SCRIPT
else
  script "$@" | sbatch
fi
