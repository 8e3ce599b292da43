"""Documents: what is read of a file that somebody brings, in a process of its own that can open nothing."""
