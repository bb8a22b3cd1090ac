"""Fine-tuning for zero-shot cross-lingual transfer: train on one language, test on others."""
