"""What one does with a finished data folder: inspect, verify, merge, remove, export."""
