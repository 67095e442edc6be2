"""One module a kind of command, with its run, cancel and probe side by side."""
