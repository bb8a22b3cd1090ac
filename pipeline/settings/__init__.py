"""What a run, and the word aligner, may be told: schemas, files and their errors. Knows no torch."""
