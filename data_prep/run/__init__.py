"""Doing it: jobs, their shards, the training of tokenizers."""
