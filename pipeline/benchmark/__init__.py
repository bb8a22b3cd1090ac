"""What is timed, and beside what: the training step, the word aligner, reading token files, and all that needs a GPU."""
