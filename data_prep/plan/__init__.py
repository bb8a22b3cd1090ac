"""What is to be done: from the words of a user to sources, and where their shards begin and end."""
