"""The Postgres settings of every server of ours: quick to clone on, and its data is for throwing away.

A server that goes down, for whatever reason, is replaced and its leases are marked lost; nothing ever reads its files
again. That is what makes it safe to give up durability. Only settings that every supported Postgres knows may stand
here: an unknown one keeps the server from starting.
"""

_TUNING = {
    # Durability is given up: no data directory is used after a crash of the machine. A crash of Postgres alone loses
    # nothing through these three, because what it wrote is still in the kernel's cache.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # CREATE and DROP DATABASE scan all of it, so more of it makes both slower; reads come from the kernel's cache.
    "shared_buffers": "64MB",
    # Many small suites share one server. A slot costs little itself, but the tables of locks are as large as all slots
    # need together, and Postgres touches all of them when it starts: twice as many cost 10 ms and 20 MB.
    "max_connections": "300",
    # The lock table is shared by everything on a server, and a suite that drops a schema of a thousand tables takes
    # thousands of locks at once: this makes 93,000, where Postgres's own defaults make 6,400.
    "max_locks_per_transaction": "256",
    # Only serializable transactions need these.
    "max_pred_locks_per_transaction": "32",
    # A lease that takes all it can get must not shut the daemon out.
    "superuser_reserved_connections": "10",
    # The log lies beside the databases, often in memory, and nothing is ever recovered from it.
    "max_wal_size": "256MB",
    # DROP DATABASE waits for every process, also for one whose client stands still in the middle of logging in.
    "authentication_timeout": "10s",
    # For code under test that commits in two phases; a slot costs less than a kilobyte.
    "max_prepared_transactions": "64",
    # A worker inside a template or a condemned database collides with CREATE and DROP DATABASE. Databases live
    # minutes, so nothing bloats; against transaction id wraparound Postgres starts workers all the same.
    "autovacuum": "off",
    # Compiling pays off for queries of seconds; those of tests run for milliseconds.
    "jit": "off",
    # Logins are made with verifiers of this kind, and an image's own configuration must not say otherwise.
    "password_encryption": "scram-sha-256",
    # Each clone makes two checkpoints: their lines would push out of the log what somebody looks for.
    "log_checkpoints": "off",
    # The log goes to the output, where the backend reads it.
    "logging_collector": "off",
    "log_destination": "stderr",
}


def tuning() -> dict[str, str]:
    """Return the settings by name, with values as they are written after ``-c name=``."""
    return dict(_TUNING)
