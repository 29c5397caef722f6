"""Exit statuses that a job script may act on, after those of ``sysexits.h``."""

REQUEUE = 75
"""EX_TEMPFAIL: stopped by a signal with a checkpoint; start the same command again."""

LOST_RANK = 71
"""EX_OSERR: a rank has ended or does not answer any more; the last checkpoint is whole."""
