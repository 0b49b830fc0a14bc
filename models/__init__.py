"""Networks and their loaders. No user weights live here."""
