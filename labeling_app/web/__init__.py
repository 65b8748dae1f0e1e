"""The HTTP side: pages, the annotators' and the lead's API, access."""
