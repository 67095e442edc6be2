"""libvirt and qemu-img behind names that say what is meant."""
