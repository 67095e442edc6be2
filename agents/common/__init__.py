"""Parts of the agent that need neither libvirt nor Celery, usable on the server's side too."""
