"""A leaderboard: entries that anyone recomputes, and one static site made of them."""

from hamward.leaderboard.adding import add_run
from hamward.leaderboard.entry import Entry, read_board, read_entry
from hamward.leaderboard.site import build_site
from hamward.leaderboard.verifying import Difference, verify_entry

__all__ = [
    "Difference",
    "Entry",
    "add_run",
    "build_site",
    "read_board",
    "read_entry",
    "verify_entry",
]
