"""Alignments for eyes: pictures, and a local page."""
