"""What a stream looks like to an objective: the views that `collate` makes of it, each drawn by a counter of its own."""
