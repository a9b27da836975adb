#!/usr/bin/env bash
# A job of dedn on a TPU slice of a GKE cluster, as a JobSet.
#
#   launch/gke.sh apply --name=cub --accelerator=tpu-v5-lite-podslice --topology=16x16 \
#       --image=us-docker.pkg.dev/my-project/dedn/dedn:1 --claim=shared --mount=/mnt/shared \
#       -- --config=cub_gzsl --workdir=/mnt/shared/runs/cub
#
# Actions:
#   render   prints the manifest: gke_jobset.yaml filled in
#   apply    creates it
#   status   of the JobSet and its pods
#   logs     follows the first pod, or --worker=N, or --worker=all
#   delete   the JobSet; a pod that is running saves first
#
#   --name=NAME [--namespace=NAMESPACE]   always (default)
#   --context=CONTEXT                     of kubectl, when not the current one
#   --accelerator=TYPE --topology=AxB[xC] node labels of the slice, for render and apply
#   --chips=N                             chips of one host, when not 4 (or all of a smaller slice)
#   --image=IMAGE                         made with launch/Dockerfile
#   --claim=CLAIM --mount=DIR             a volume claim that all pods can write to, and where
#   --gcsfuse                             the claim is a bucket (GCS FUSE), not Filestore
#   --spot                                on spot nodes
#   --service-account=NAME                of Kubernetes, when not the default one
#   --max-restarts=N                      (100)
#   --grace=SECONDS                       to save when a pod is told to end (300)
#   --worker=N|all                        for logs
#   --dry-run                             print the commands, run nothing
#   -- [JOB] ARGUMENTS                    of dedn: train if none is named, sweep, features extract,
#                                         evaluate, predict; --workdir under --mount or in a bucket
#                                         (gs://), --out of features extract under --mount
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
. "$here/common.sh"

name='' namespace=default context='' accelerator='' topology='' chips='' image='' claim='' mount=''
gcsfuse=false spot='' service_account='' max_restarts=100 grace=300 worker=0
action="${1:-}"
case "$action" in
  render | apply | status | logs | delete) shift ;;
  --help) usage; exit 0 ;;
  *) fail "unknown action '$action', expected render, apply, status, logs or delete" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --name=*) name="${1#*=}" ;;
    --namespace=*) namespace="${1#*=}" ;;
    --context=*) context="${1#*=}" ;;
    --accelerator=*) accelerator="${1#*=}" ;;
    --topology=*) topology="${1#*=}" ;;
    --chips=*) chips="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --claim=*) claim="${1#*=}" ;;
    --mount=*) mount="${1#*=}" ;;
    --gcsfuse) gcsfuse=true ;;
    --spot) spot=1 ;;
    --service-account=*) service_account="${1#*=}" ;;
    --max-restarts=*) max_restarts="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --worker=*) worker="${1#*=}" ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (the job of dedn goes after --)" ;;
  esac
  shift
done
label='[a-z]([a-z0-9-]{0,61}[a-z0-9])?'
expected="lower-case letters, digits and hyphens, a letter first"
# The names of pods are longer, and they have 63 letters at most.
word --name "$name" '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "up to 40 $expected"
word --namespace "$namespace" "$label" "$expected"
word --context "$context" '[A-Za-z0-9._:/@-]*' "a context of kubectl"
word --worker "$worker" 'all|[0-9]+' "a number from 0, or all"
case "$action" in
  render | apply)
    word --accelerator "$accelerator" '[a-z0-9]+(-[a-z0-9]+)*' "a TPU type such as tpu-v5-lite-podslice"
    word --topology "$topology" '[1-9][0-9]{0,2}x[1-9][0-9]{0,2}(x[1-9][0-9]{0,2})?' "a topology such as 16x16 or 4x4x4"
    word --image "$image" '[A-Za-z0-9][A-Za-z0-9._:/@-]*' "the name of an image"
    word --claim "$claim" "$label" "$expected"
    word --mount "$mount" '(/[A-Za-z0-9._-]+)+' "an absolute path"
    word --service-account "$service_account" "($label)?" "$expected"
    number --max-restarts "$max_restarts" 0
    number --grace "$grace" 1
    all=$((${topology//x/*}))
    [ -n "$chips" ] || chips=$((all < 4 ? all : 4))
    number --chips "$chips" 1
    [ $((all % chips)) -eq 0 ] || fail "--chips=$chips does not divide the $all chips of --topology=$topology"
    hosts=$((all / chips))
    take_shared_job "$@"
    flag="$(place_flag "${job[@]}")"
    case "$place" in
      */../* | */..) fail "$flag=$place, expected a path without .." ;;
      "$mount"/?* | *://*) ;;
      *) fail "$flag=$place, expected a path under --mount=$mount, or a bucket" ;;
    esac ;;
  *) [ $# -eq 0 ] || fail "arguments after -- are for render and apply" ;;
esac
if [ -z "$dry_run" ] && [ "$action" != render ]; then
  command -v kubectl >/dev/null || fail "no kubectl on PATH; install it: gcloud components install kubectl"
fi

# The arguments of the container as JSON; Kubernetes would replace $(NAME) in them.
arguments() {
  local argument separator='['
  # shellcheck disable=SC2016  # $( as it stands
  for argument in "${job[@]}" "${job_arguments[@]}" --distributed; do
    printf '%s"%s"' "$separator" "$(printf '%s' "$argument" | sed 's/[\\"]/\\&/g; s/\$(/$$(/g')"
    separator=', '
  done
  printf ']'
}

# Fields are replaced as text, whatever they contain; lines that are then empty are left out.
render() {
  NAME="$name" NAMESPACE="$namespace" ACCELERATOR="$accelerator" TOPOLOGY="$topology" \
    HOSTS="$hosts" CHIPS="$chips" IMAGE="$image" CLAIM="$claim" MOUNT="$mount" GRACE="$grace" \
    GCSFUSE="$gcsfuse" MAX_RESTARTS="$max_restarts" ARGUMENTS="$(arguments)" \
    SPOT="${spot:+cloud.google.com/gke-spot: \"true\"}" \
    SERVICE_ACCOUNT="${service_account:+serviceAccountName: \"$service_account\"}" \
    awk '
      /^ *#/ { print; next }
      {
        rest = $0
        line = ""
        while (match(rest, /\$\{[A-Z_]+\}/)) {
          line = line substr(rest, 1, RSTART - 1) ENVIRON[substr(rest, RSTART + 2, RLENGTH - 3)]
          rest = substr(rest, RSTART + RLENGTH)
        }
        line = line rest
        if (line !~ /^ *$/) print line
      }' "$here/gke_jobset.yaml"
}

kubectl_run() {
  if [ -n "$context" ]; then
    run kubectl "--context=$context" "--namespace=$namespace" "$@"
  else
    run kubectl "--namespace=$namespace" "$@"
  fi
}

case "$action" in
  render) render ;;
  apply)
    if [ -n "$dry_run" ]; then
      flags=("--name=$name" "--namespace=$namespace" "--accelerator=$accelerator" "--topology=$topology"
        "--chips=$chips" "--image=$image" "--claim=$claim" "--mount=$mount"
        "--max-restarts=$max_restarts" "--grace=$grace")
      if [ "$gcsfuse" = true ]; then flags+=(--gcsfuse); fi
      if [ -n "$spot" ]; then flags+=(--spot); fi
      if [ -n "$service_account" ]; then flags+=("--service-account=$service_account"); fi
      quoted "$here/gke.sh" render "${flags[@]}" -- "${job[@]}" "${job_arguments[@]}"
      printf ' | '
      kubectl_run apply --filename=-
    else
      render | kubectl_run apply --filename=-
    fi ;;
  status)
    kubectl_run get jobset "$name"
    kubectl_run get pods "--selector=jobset.sigs.k8s.io/jobset-name=$name" --output=wide ;;
  logs)
    selector="jobset.sigs.k8s.io/jobset-name=$name"
    if [ "$worker" = all ]; then
      kubectl_run logs "--selector=$selector" --container=dedn --follow --prefix --max-log-requests=1000 --tail=100
    else
      selector="$selector,batch.kubernetes.io/job-completion-index=$worker"
      kubectl_run logs "--selector=$selector" --container=dedn --follow --tail=100
    fi ;;
  delete) kubectl_run delete jobset "$name" ;;
esac
