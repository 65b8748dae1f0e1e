"""Projects and campaigns, demonstrations, and what a lead sees of them."""
