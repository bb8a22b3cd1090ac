"""Weights in and out of files: Hugging Face, fairseq, runs and checkpoints; export."""
