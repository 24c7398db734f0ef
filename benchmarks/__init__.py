"""What sitebus costs, each measured beside a floor or a peer in the same run."""
