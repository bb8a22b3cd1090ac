"""What is measured of data_prep, and beside what."""
