"""The backends of a CPU: C compiled on the machine itself, and batched PyTorch, which runs on any device."""
