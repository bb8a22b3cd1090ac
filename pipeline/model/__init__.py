"""What has weights: the encoder over packed batches, its layers and heads. Knows no file and no training."""
