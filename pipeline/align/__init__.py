"""The words of sentence pairs, aligned: from hidden states to links between words."""
