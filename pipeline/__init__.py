"""Token files in, trained cross-lingual encoder out: data, model, objectives, the training loop, and what uses the result.

Shape suffixes: B pairs or rows, S packed sequences, T tokens in a packed batch, P predicted (masked) tokens,
L length, M/N source and target tokens, D hidden width, H heads, V vocabulary.
"""
