"""What management server and agent say to each other: pure data, shared by both sides."""
