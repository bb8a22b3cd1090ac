"""Text from text, by an exported encoder with a decoder: what it reads, how it is searched, and what comes out in order.

The search is Hugging Face's; what is here is which ids go in, which may come out, and in which batches. Shapes: B rows,
L tokens, N hypotheses of all rows, V words.
"""
