"""The page: a process of its own that speaks only HTTP to the door. `python -m api.ui` serves it."""
