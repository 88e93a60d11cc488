"""The leaderboard as one static site."""

from hamward.leaderboard.site.build import build_site

__all__ = ["build_site"]
