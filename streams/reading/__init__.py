"""The reading room: whatever the work of the loop asks of the projections is a function here, which answers in small structs.

`learning` reads as of a position where a round asks; `rounds` and `said` read what stands now. Each takes a connection, so that who
asks decides what is read at one moment.
"""
