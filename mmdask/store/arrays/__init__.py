"""Arrays in files: written, mapped, read, and what is held of them."""
