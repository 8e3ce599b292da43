"""The log: its words, its meaning, and the process that follows it."""
