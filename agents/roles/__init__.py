"""What an agent is for: each role names the handlers it has and the facts it reports."""
