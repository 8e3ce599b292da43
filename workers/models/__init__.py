"""Model directories: made from a base, exported for the engines, checked by numbers."""
