"""From token files to micro-batches: streams of samples, blended, packed and cut by ranks. Knows no model."""
