"""What people give to be aligned or scored: lines, words and pairs of sentences. Knows no model."""
