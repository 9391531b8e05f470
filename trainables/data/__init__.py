"""Data sets: files read into arrays, doubted, split, standardised, augmented and streamed."""
