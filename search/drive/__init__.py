"""The driver: what is next, the lock of a folder, Ray, progress, and signals."""
