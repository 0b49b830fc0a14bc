"""A folder per technique, and what several of them share. No graph, no server, no user interface."""
