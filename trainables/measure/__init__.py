"""Measuring: networks in, the measures of rows out."""
