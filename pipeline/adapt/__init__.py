"""A model made a better aligner of one's own pairs, from text to a model folder, in one command."""
