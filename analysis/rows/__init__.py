"""The rows: the schema of the table, where it is stored, what a study looks for, and what else is
read beside it.
"""
