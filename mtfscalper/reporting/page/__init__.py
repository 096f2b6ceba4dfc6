"""A report as one HTML file that needs no network: what is in it, and how it is put together."""
