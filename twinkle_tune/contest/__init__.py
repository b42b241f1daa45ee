"""One contest: load, judge, race and record whatever competes. The stages are where it is held."""
