"""VMs, volumes, and the chains of files that volumes are made of."""
