"""Alignment of video generators: trainers, stages and the command line."""

from alignment.sibling_packages import keep_together

keep_together()
