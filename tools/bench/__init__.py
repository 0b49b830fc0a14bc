"""Speed and memory against peers, one module per technique, every comparison within one run; `make bench`."""
