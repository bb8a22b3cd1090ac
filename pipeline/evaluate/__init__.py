"""How good a model is: alignment error rate, sentence retrieval, perplexity."""
