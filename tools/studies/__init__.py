"""What was measured: a folder per technique with its quality, speed, plots and section; what they share is here."""
