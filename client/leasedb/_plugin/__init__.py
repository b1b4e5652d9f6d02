"""What the fixtures of the pytest plugin are made of; imported when the first of them is asked for."""
