"""`recjax tune`: the search for transforms, buckets and devices that serve most within limits."""
