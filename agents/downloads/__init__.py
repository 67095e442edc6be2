"""Fetching template images: one plug-in a kind of URL."""
