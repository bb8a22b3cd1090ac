"""What a stream looks like to an objective: masks, and later spans and noise."""
