"""What a training step needs: its parts, the ranks, validation, and the end of what cannot go on."""
