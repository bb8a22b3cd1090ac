"""Checkpoints of a training: whole or without effect, read without running what they hold, cut anew for other ranks."""
