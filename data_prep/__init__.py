"""Text to token files: reads corpora, encodes them with SentencePiece in XLM-R's id layout, publishes shards.

The reading side (`token_file`, `manifest`, `tokenizer`) is what training imports; this package knows nothing of models.
"""
