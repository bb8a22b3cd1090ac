"""What a trained model is used for: word alignment, pictures of it, evaluation, export. Knows nothing of training."""
