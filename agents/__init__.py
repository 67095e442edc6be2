"""The program on the host: accepts commands, works them off, answers with evidence. Django-free, database-free."""
