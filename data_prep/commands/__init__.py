"""What a user types: options, help and printed results of every command."""
