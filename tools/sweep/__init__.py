"""Sweeps: any API graph x prompts x seeds x settings, on one server or many; kept, scored, reported, voted on."""
