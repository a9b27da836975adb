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

# The value of --workdir among arguments, nothing when it is not there.
workdir_of() {
  local next='' argument found=''
  for argument in "$@"; do
    if [ -n "$next" ]; then found="$argument"; fi
    next=
    case "$argument" in
      --workdir=*) found="${argument#*=}" ;;
      --workdir) next=1 ;;
    esac
  done
  printf '%s' "$found"
}

# Arguments of a training that several hosts run: `--distributed` is added by the scripts.
check_training() {
  local argument workdir
  [ $# -gt 0 ] || fail "nothing after --; give the arguments of dedn train"
  for argument in "$@"; do
    case "$argument" in
      *[$'\n\r']*) fail "a line break in an argument after --" ;;
      --distributed) fail "--distributed is added here; leave it out after --" ;;
      --coordinator* | --processes* | --process | --process=*)
        fail "$argument: processes find each other here; leave it out after --" ;;
      train) fail "train is added here; leave it out after --" ;;
    esac
  done
  workdir="$(workdir_of "$@")"
  [ -n "$workdir" ] || fail "no --workdir=DIR after --"
  case "$workdir" in
    /*) ;;
    *) fail "--workdir=$workdir, expected an absolute path on a filesystem that all hosts share" ;;
  esac
}
