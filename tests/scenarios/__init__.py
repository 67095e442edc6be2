"""What people do with cloudctl, and what the world does to them, on a whole lab."""
