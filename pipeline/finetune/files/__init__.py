"""Files of tasks as they are published, read with errors that name the line."""
