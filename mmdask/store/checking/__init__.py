"""Every byte of a store against what was committed, and arrays against each other."""
