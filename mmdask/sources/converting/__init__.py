"""A conversion: what is found and planned, who does it, and what it writes."""
