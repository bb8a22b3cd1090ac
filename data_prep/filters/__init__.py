"""Which lines and pairs are kept: bounds, languages, repetitions."""
