# `tpu_pod.sh watch`: what it looks at, what it does then, and what the TPU has cost so far; sourced
# by tpu_pod.sh, whose variables and functions it uses.
# shellcheck shell=bash disable=SC2154

charged=0       # seconds for which the TPU has been charged
charged_since='' # that are counted up to this time; nothing while it is not charged for
crashes=0       # ends of the job, lost TPUs and stalls since it last got on
best=''         # the most that there was of its results
progress_at=''  # when it last got on, or was started
failures_seen='' # failures that the workers have counted, as far as they are in `crashes`

seconds_now() { date +%s; }

# Seconds that have passed since a time; 0 if the clock has been set back since then.
passed_since() {
  local passed=$(($(seconds_now) - $1))
  echo $((passed > 0 ? passed : 0))
}

# Counts the time until now; account yes|no: whether the TPU is charged for from now on.
account() {
  [ -z "$charged_since" ] || charged=$((charged + $(passed_since "$charged_since")))
  charged_since=''
  [ "$1" = no ] || charged_since="$(seconds_now)"
}

# Chips of an accelerator type: in the names of some generations cores are counted, two a chip.
chips_of() {
  local count="${1##*-}"
  case "$1" in
    v5litepod-* | v6e-*) echo "$count" ;;
    v2-* | v3-* | v4-* | v5p-*) echo $((count / 2)) ;;
    *) return 1 ;;
  esac
}

hours() { calculate "$charged / 3600"; }
cost() { calculate "$charged / 3600 * $(chips_of "$type") * $price"; }

# Such as "1.5 hours, 460.8 USD at 1.2 a chip-hour".
spent() {
  printf '%.2f hours' "$(hours)"
  [ -z "$price" ] || printf ', %.2f at %s a chip-hour' "$(cost)" "$price"
}

# Why the TPU has to go; fails while it need not.
limit_reached() {
  if [ -n "$max_hours" ] && holds "$(hours) >= $max_hours"; then
    echo "--max-hours=$max_hours"
  elif [ -n "$max_cost" ] && holds "$(cost) >= $max_cost"; then
    echo "--max-cost=$max_cost"
  else
    return 1
  fi
}

# The sums outlive a watch that is stopped and given again.
ledger="$(dirname "$here")/build/watch-$project-$zone-$name"
ledger_key() { quoted "$type" "${job[@]}" "${job_arguments[@]}"; }

save_ledger() {
  mkdir -p "$(dirname "$ledger")"
  printf '%s\n%s\n%s\n%s\n' "$(ledger_key)" "$charged" "$charged_since" "$crashes" >"$ledger.new"
  mv -f "$ledger.new" "$ledger"
}

load_ledger() {
  local key charged_then since_then crashes_then
  { read -r key && read -r charged_then && read -r since_then && read -r crashes_then; } \
    2>/dev/null <"$ledger" || return 0
  [ "$key" = "$(ledger_key)" ] || return 0
  case "$charged_then$since_then$crashes_then" in *[!0-9]*) return 0 ;; esac
  charged="$charged_then" charged_since="$since_then" crashes="$crashes_then"
  say "this run has had the TPU for $(spent) before (kept in $ledger)"
}

# From the lines of `worker.sh status`: counts what has failed, and sees whether the job got on.
take_counts() {
  local failures results
  failures="$(printf '%s\n' "$1" | sed -n 's/.* failures=\([0-9]*\).*/\1/p' | sort -n | tail -n 1)"
  results="$(printf '%s\n' "$1" | sed -n 's/.* done=\([0-9]*\)$/\1/p' | sort -n | tail -n 1)"
  [ -n "$failures" ] || return 0
  if [ -n "$failures_seen" ]; then
    # Fewer than before: the workers are new ones.
    [ "$failures" -ge "$failures_seen" ] || failures_seen=0
    crashes=$((crashes + failures - failures_seen))
  fi
  failures_seen="$failures"
  if [ -z "$best" ]; then
    best="$results"
  elif [ "$results" -gt "$best" ]; then
    best="$results" crashes=0 progress_at="$(seconds_now)"
  fi
}

start_again() {
  progress_at="$(seconds_now)"
  if ! within=600 start; then
    crashes=$((crashes + 1))
    return 1
  fi
}

# One look at a pod that is READY: 0 the job is going on; 10 finished; 11 stopped; 12 a mistake in
# its input; 1 something failed.
look() {
  local lines states
  lines="$(within=300 worker_status | sed -n 's/.*dedn-worker [^ ]*: //p')" || return 1
  take_counts "$lines"
  states="$(printf '%s\n' "$lines" | sed 's/ failures=.*//' | sort -u)"
  [ -n "$states" ] || return 1
  case $'\n'"$states"$'\n' in
    *$'\nended 2\n'*) return 12 ;;
    *$'\nstopped\n'*) return 11 ;;
    *$'\nnot installed\n'*) say "installing and starting"; install && start_again ;;
    *$'\nlost\n'*) say "a worker was restarted; starting"; crashes=$((crashes + 1)); start_again ;;
    *$'\nidle\n'*) say "starting"; start_again ;;
    *$'\nended '*) say "a worker has given up; starting again"; start_again ;;
    *$'\nrunning\n'*) return 0 ;;
    *$'\nfinished\n'*) return 10 ;;
    *) say "unexpected: $states"; return 1 ;;
  esac
}

# Whether the job has done nothing for too long. What writes nothing before its end cannot be told.
stalled() {
  case "${job[*]}" in evaluate | predict) return 1 ;; esac
  [ -n "$progress_at" ] || return 1
  [ "$progress_at" -le "$(seconds_now)" ] || progress_at="$(seconds_now)" # the clock was set back
  holds "$stall > 0 && $(passed_since "$progress_at") >= 60 * $stall"
}

end_stall() {
  say "nothing was done for $stall minutes; stopping and starting again"
  show_log
  crashes=$((crashes + 1))
  { stop_workers && start_again; } || recreate READY
}

stop_workers() { within=$((grace + 300)) on_workers all "$worker_sh stop --timeout=$grace"; }

show_log() {
  within=300 on_workers all "$worker_sh logs --once --prefix --lines=20" >&2 || true
}

# What `restart` does; from then on everything is counted anew but what was spent and has failed.
recreate() { # recreate STATE
  failures_seen=0
  progress_at=''
  restart "$1" || return 1
  progress_at="$(seconds_now)"
}

watch() {
  local now before='' failed=0 status reason
  load_ledger
  while :; do
    status=0
    now="$(state)" || { now=unknown; status=1; }
    [ "$now" = "$before" ] || say "$name is $now"
    case "$now" in
      unknown) [ -z "$charged_since" ] || account yes ;;
      READY)
        account yes
        [ -n "$progress_at" ] || progress_at="$(seconds_now)"
        look || status=$? ;;
      GONE | PREEMPTED | TERMINATED | STOPPED | FAILED | SUSPENDED)
        # It was charged for under an earlier watch: until when nobody knows.
        [ -n "$before" ] || charged_since=''
        if [ -n "$charged_since" ]; then
          account no
          crashes=$((crashes + 1))
          say "lost the TPU after $(spent); making a new one"
        fi
        if reason="$(limit_reached)"; then end_watch limit 1 "$reason is reached"; fi
        recreate "$now" || status=1 ;;
      *) progress_at='' ;; # on its way to one of these
    esac
    before="$now"
    case "$status" in
      0) failed=0 ;;
      10) end_watch finish 0 "finished" ;;
      11) end_watch stop 143 "the run was stopped" ;;
      12) end_watch mistake 2 "a mistake in config or data" ;;
      *) failed=$((failed + 1)) ;;
    esac
    if reason="$(limit_reached)"; then end_watch limit 1 "$reason is reached"; fi
    if [ "$crashes" -ge "$max_crashes" ]; then
      crashes=0
      end_watch giveup 1 "$max_crashes crashes without anything done in between; giving up"
    elif [ "$failed" -ge "$failures" ]; then
      end_watch giveup 1 "$failed failures in a row; giving up"
    fi
    if [ "$now" = READY ] && stalled; then end_stall || true; fi
    save_ledger
    sleep "$interval"
  done
}

# end_watch REASON STATUS MESSAGE: deletes the TPU if that was asked for, and ends the script.
end_watch() {
  local tries=5
  [ -z "$charged_since" ] || account yes
  save_ledger
  case "$1" in
    mistake | giveup) show_log ;;
    limit) [ "$now" != READY ] || stop_workers || true ;;
  esac
  case ",$delete_on,limit," in
    *",$1,"* | *,always,*)
      say "$3; deleting $name, which was there for $(spent)"
      until delete || [ "$(state)" = GONE ]; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
          say "$name could not be deleted: it is still there, and charged for"
          exit 1
        fi
        sleep "$interval"
      done
      account no
      save_ledger ;;
    *) say "$3; $name may still be there, and is charged for until '$me delete' (so far $(spent))" ;;
  esac
  [ "$1" != finish ] || rm -f "$ledger"
  exit "$2"
}

# What watch would run, for --dry-run.
print_watch() {
  echo "# every $interval s:"
  describe
  worker_status
  echo "# after a preemption:"
  restart PREEMPTED
  if holds "$stall > 0"; then
    echo "# when nothing was done for $stall minutes:"
    stop_workers
    start
  fi
  if [ -n "$max_hours$max_cost" ]; then
    echo "# after${max_hours:+ $max_hours hours}${max_hours:+${max_cost:+ or}}${max_cost:+ a cost of $max_cost}:"
    stop_workers
    delete
  fi
  if [ -n "$delete_on" ]; then
    echo "# at the end (--delete-on=$delete_on):"
    delete
  fi
}
