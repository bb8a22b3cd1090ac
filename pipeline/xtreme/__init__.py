"""XTREME as published: from a model to the row of scores that papers print, and the files that its leaderboard takes."""
