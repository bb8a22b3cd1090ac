"""SentencePiece in XLM-R's id layout, and Hugging Face's form of it."""
