"""What a run does beside its loop: the optimizer step, and the checkpoints that it starts from and leaves."""
