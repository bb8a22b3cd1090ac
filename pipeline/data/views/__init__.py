"""What a stream looks like to an objective, one module a kind of view; `collate` makes those that somebody reads."""
