"""What one sees of a run: progress, metrics, its page."""
