"""V3 node classes: schema, argument checks and one call into the library. Every module ends with its NODES list."""
