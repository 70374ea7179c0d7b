"""How well batches mix the values of a field, and what that costs."""
