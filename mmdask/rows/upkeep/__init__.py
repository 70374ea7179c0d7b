"""What keeps a store small: merging parts, removing what nobody needs."""
