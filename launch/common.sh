# What the scripts of this folder share; sourced, not run. Works with bash 3.2 and newer.
# shellcheck shell=bash

me="${0##*/}"
dry_run=

# The comment at the head of the script.
usage() { sed -n '/^#!/d; /^#/!q; s/^#$//p; s/^# //p' "$0"; }

fail() {
  echo "$me: $*" >&2
  exit 2
}

# One argument as a shell reads it back.
quote() {
  case "$1" in
    '' | *[!A-Za-z0-9_@%+=:,./-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
  esac
}

# A command line of these arguments.
quoted() {
  local separator='' argument
  for argument in "$@"; do
    printf '%s' "$separator"
    quote "$argument"
    separator=' '
  done
}

# Runs a command, or prints it with --dry-run.
run() {
  if [ -n "$dry_run" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# number FLAG VALUE SMALLEST
number() {
  case "$2" in
    '' | *[!0-9]* | ??????????*) fail "$1=$2, expected a number from $3" ;;
  esac
  [ "$2" -ge "$3" ] || fail "$1=$2, expected a number from $3"
}

# word FLAG VALUE REGEX WHAT
word() {
  [[ "$2" =~ ^($3)$ ]] || fail "$1=$2, expected $4"
}

# decimal FLAG VALUE: a number from 0, with a point or without
decimal() {
  word "$1" "$2" '[0-9]{1,9}(\.[0-9]{1,9})?' "a number from 0"
}

# calculate EXPRESSION, with six digits after the point at most.
calculate() { awk "BEGIN { print $1 }" OFMT='%.6g' CONVFMT='%.6g'; }

# Whether a comparison of numbers holds.
holds() { awk "BEGIN { exit !($1) }"; }

# take_job [JOB] ARGUMENTS: sets `job`, words of a job of dedn that several processes can run
# (train if none is given), and `job_arguments`.
take_job() {
  job_arguments=()
  case "${1:-}" in
    '' | -*) job=(train) ;;
    train | sweep | evaluate | predict) job=("$1"); shift ;;
    features)
      [ "${2:-}" = extract ] || fail "'features ${2:-}' after --, expected features extract"
      job=(features extract)
      shift 2 ;;
    *) fail "'$1' after --, expected train, sweep, evaluate, predict or features extract with its arguments" ;;
  esac
  job_arguments=("$@")
}

# The value of a flag among arguments, nothing when it is not there: value_of --workdir ARGUMENTS
value_of() {
  local flag="$1" next='' argument found=''
  shift
  for argument in "$@"; do
    if [ -n "$next" ]; then found="$argument"; fi
    next=
    case "$argument" in
      "$flag="*) found="${argument#*=}" ;;
      "$flag") next=1 ;;
    esac
  done
  printf '%s' "$found"
}

# The flag that names the folder that a job works in.
place_flag() { # place_flag JOB...
  case "$*" in
    'features extract') echo --out ;;
    *) echo --workdir ;;
  esac
}

# take_shared_job [JOB] ARGUMENTS: `take_job` for a job that several hosts run; sets `place`, the
# folder or bucket they share, too. `--distributed` is added by the scripts.
take_shared_job() {
  local argument flag
  [ $# -gt 0 ] || fail "nothing after --; give a job of dedn with its arguments"
  take_job "$@"
  for argument in ${job_arguments[@]+"${job_arguments[@]}"}; do
    case "$argument" in
      *[$'\n\r']*) fail "a line break in an argument after --" ;;
      --distributed) fail "--distributed is added here; leave it out after --" ;;
      --coordinator* | --processes* | --process | --process=*)
        fail "$argument: processes find each other here; leave it out after --" ;;
    esac
  done
  flag="$(place_flag "${job[@]}")"
  place="$(value_of "$flag" ${job_arguments[@]+"${job_arguments[@]}"})"
  [ -n "$place" ] || fail "no $flag=DIR after --"
  case "$flag=$place" in
    "$flag"=/* | --workdir=gs://?* | --workdir=s3://?*) ;;
    --workdir=*) fail "$flag=$place, expected an absolute path on a filesystem that all hosts share, or a bucket (gs://..., s3://...)" ;;
    *) fail "$flag=$place, expected an absolute path on a filesystem that all hosts share" ;;
  esac
}
