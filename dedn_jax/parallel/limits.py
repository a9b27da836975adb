"""How long the processes of a run wait for what, in seconds."""

JOIN_TIMEOUT = 300.0  # for the other processes, at the start
SILENCE_TIMEOUT = 60.0  # for a sign of life of one of them
STALL_TIMEOUT = 600.0  # for any work to get on, in one process or several
MEETING_TIMEOUT = 600.0  # for the others to come where all meet
LONGEST_TIMEOUT = 7 * 24 * 3600.0  # that a flag may ask for
