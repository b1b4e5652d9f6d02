"""What a lease, a server, a template and a pool are, and what may happen to them. No I/O, standard library only."""
