"""What people hand in, as rows of fields: exactly, or not at all."""
