"""A hundred tests that each need a database, run in every way people have: see peers.py."""
