"""Quality tables on ShapesWorld, one module per technique, each resumable; `make eval` runs them all."""
