"""Operating points: which of them are on the front, their hypervolume, and how they are put into
words.
"""
