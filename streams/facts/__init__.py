"""The rooms of the log's concepts: one module each, with its facts, its tables, what they change of the state and of the rows.

Adding an event means: a struct in its room and in the room's union, and a case wherever `assert_never` asks there. Adding a room
means its union in `streams.events` too, and a line wherever `assert_never` asks then.
Free text typed by a person, and what the model answered them, is `Sealed`; nothing else in an event holds words of theirs.
"""
