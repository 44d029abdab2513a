"""What a model computes on the way: the table of sites, capture, reducers, attention, long recordings."""
