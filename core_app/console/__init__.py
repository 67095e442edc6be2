"""What the admin of all rooms is made of; registers nothing itself."""
