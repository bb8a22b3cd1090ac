"""Text to token files: reads corpora, encodes them with SentencePiece in XLM-R's id layout, publishes shards.

Training imports what reads them, `token_files` and `tokenizers`; this package knows nothing of models.
"""
