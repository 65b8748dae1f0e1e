"""Tasks in the hands of annotators: giving out, leases, answers, progress."""
