"""How many threads heavy work takes on a CPU: two where there are two, so that a large host keeps its cores for its engines."""

import os

HEAVY_THREADS = min(2, os.cpu_count() or 1)
