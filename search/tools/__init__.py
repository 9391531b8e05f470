"""The commands that look at a machine or at a finished study, one file each."""
