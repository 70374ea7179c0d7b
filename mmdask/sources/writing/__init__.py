"""Writers: rows into parts, and what of them is committed."""
