"""The arguments of one call as values: taken, copied, drawn anew, cut down to fewer rows, laid at the same address."""
